//! Rows of Docker images (contract 1.5).

use std::sync::Arc;

use serde_json::{Value, json};

use super::fault::Fault;
use super::spec::{ENVIRONMENT_NAME_RULE, is_environment_name};
use crate::docker::ImageSummary;
use crate::model::time::Stamp;
use crate::ops::Node;
use crate::ops::images::{self as ops, Synced};
use crate::serve::{Answer, Call, Reply};
use crate::wire::api::fields::Invalid;

/// `GET /api/docker/images`: all local images.
pub fn list(node: &Arc<Node>, call: Call) -> Answer {
    let (answer, responder) = call.park();
    ops::list(node, move |images| {
        responder.respond(match images {
            Ok(images) => {
                let images: Vec<Value> = images.iter().map(image).collect();
                Reply::json(200, &json!({ "images": images }))
            }
            Err(error) => Fault::from(error).into(),
        });
    });
    answer
}

/// `POST /api/docker/sync/{name}`: answered when the tarball is loaded, or needs no loading.
pub fn sync(node: &Arc<Node>, call: Call) -> Answer {
    let name = call.param("name").to_owned();
    if !is_environment_name(&name) {
        let fault = Fault::from(Invalid::value("path", "name", ENVIRONMENT_NAME_RULE, name.into()));
        return Reply::from(fault).into();
    }
    let (answer, responder) = call.park();
    let wanted = name.clone();
    let done = Box::new(move |synced| {
        responder.respond(match synced {
            Ok(Synced::Loaded(path)) => Reply::json(
                200,
                &json!({
                    "message": format!("Environment {name} loaded."),
                    "synced": true,
                    "source": path,
                }),
            ),
            Ok(Synced::NothingToDo) => unchanged(format!("Environment {name} is up to date.")),
            Ok(Synced::NoTarball) => unchanged(format!("Environment {name} has no tarball.")),
            Err(error) => Fault::from(error).into(),
        });
    });
    ops::sync(node, wanted, done);
    answer
}

fn unchanged(message: String) -> Reply {
    Reply::json(200, &json!({ "message": message, "synced": false }))
}

fn image(image: &ImageSummary) -> Value {
    json!({
        "id": image.id,
        "tags": image.repo_tags,
        "created": Stamp::from_seconds(image.created).rfc3339(),
        "size": image.size,
    })
}
