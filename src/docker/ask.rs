//! A request to the Engine before it is one: what is asked, under which name, within which time.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;
use ureq::http::Method;

use super::DockerError;
use crate::limits;

/// A request, described. `call` names it for errors and logs, in the Engine's verbs.
#[derive(Debug)]
pub(super) struct Ask {
    pub call: &'static str,
    pub method: Method,
    /// Path and query below the API version.
    pub target: String,
    pub body: Vec<u8>,
    pub content_type: Option<&'static str>,
    pub deadline: Duration,
}

impl Ask {
    pub fn get(call: &'static str, target: String) -> Ask {
        Ask::new(call, Method::GET, target)
    }

    pub fn head(call: &'static str, target: String) -> Ask {
        Ask::new(call, Method::HEAD, target)
    }

    pub fn post(call: &'static str, target: String) -> Ask {
        Ask::new(call, Method::POST, target)
    }

    pub fn delete(call: &'static str, target: String) -> Ask {
        Ask::new(call, Method::DELETE, target)
    }

    fn new(call: &'static str, method: Method, target: String) -> Ask {
        let deadline = limits::ENGINE_CALL_DEADLINE;
        Ask { call, method, target, body: Vec::new(), content_type: None, deadline }
    }

    /// With another deadline than the quick one.
    pub fn within(self, deadline: Duration) -> Ask {
        Ask { deadline, ..self }
    }

    /// With a JSON body.
    pub fn json(self, body: &impl Serialize) -> Result<Ask, DockerError> {
        match serde_json::to_vec(body) {
            Ok(body) => Ok(Ask { body, content_type: Some("application/json"), ..self }),
            Err(error) => Err(DockerError::Garbage { call: self.call, source: error.into() }),
        }
    }

    /// With a tar archive as the body, which the call's `Upload` brings.
    pub fn tar(self) -> Ask {
        Ask { content_type: Some("application/x-tar"), ..self }
    }
}

/// A body that goes up while the call runs, and the flag that says nobody wants it any more.
pub(super) struct Upload<'a> {
    pub bytes: &'a mut dyn Read,
    pub unwanted: Arc<AtomicBool>,
}
