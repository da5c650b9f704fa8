//! Containers made into images: a commit, and a copy of all layers as one. Called by `ops`, on a
//! `patient-N` thread: both take as long as the container is large.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::ask::{Ask, Upload};
use super::images::follow;
use super::names::{checked_name, checked_reference, escaped, filters};
use super::{DockerError, Engine};
use crate::limits::TAR_END_BYTES;
use crate::stop::Stop;
use crate::wire::docker as wire;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Committed {
    id: String,
}

/// What a commit makes.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    pub repository: &'a str,
    pub tag: &'a str,
    pub message: &'a str,
    /// In the Engine's words; what it leaves out is the container's own.
    pub config: &'a Value,
}

impl Engine {
    /// Makes an image of a container, which is frozen meanwhile, and gives its id. Ends when `stop`
    /// goes up.
    ///
    /// # Errors
    /// Missing: the container is gone. At the deadline, and after a stop, the Engine may go on all
    /// the same: look for the tag.
    pub fn commit_container(
        &self,
        name: &str,
        commit: Commit,
        deadline: Duration,
        stop: &Stop,
    ) -> Result<String, DockerError> {
        const CALL: &str = "commit container";
        let name = checked_name(CALL, name)?;
        let Commit { repository, tag, message, config } = commit;
        let (repository, tag, message) = (escaped(repository), escaped(tag), escaped(message));
        let target = format!(
            "/commit?container={name}&repo={repository}&tag={tag}&comment={message}&pause=true"
        );
        let ask = Ask::post(CALL, target).within(deadline).json(config)?;
        let committed: Committed = self.ask_patiently(&ask, None, stop, |reply| reply.json())?;
        Ok(committed.id)
    }

    /// Copies a container's file system into an image of one layer, which gets `label` and no name,
    /// and gives its id. The bytes pass through this thread, a buffer at a time. Ends when `stop`
    /// goes up; nothing is left of it then.
    pub fn flatten_container(
        &self,
        name: &str,
        label: (&str, &str),
        deadline: Duration,
        stop: &Stop,
    ) -> Result<String, DockerError> {
        const EXPORT: &str = "export container";
        const IMPORT: &str = "import the file system of container";
        let name = checked_name(EXPORT, name)?;
        let (key, value) = label;
        let change = escaped(&format!("LABEL \"{key}\"=\"{value}\""));
        let export = Ask::get(EXPORT, format!("/containers/{name}/export")).within(deadline);
        let import = Ask::post(IMPORT, format!("/images/create?fromSrc=-&changes={change}"));
        let import = import.tar().within(deadline);
        self.ask_patiently(&export, None, stop, |mut reply| {
            let unwanted = Arc::new(AtomicBool::new(false));
            let mut tar = WholeTar::new(reply.reader(), Arc::clone(&unwanted));
            let upload = Upload { bytes: &mut tar, unwanted };
            let imported = self.ask_patiently(&import, Some(upload), stop, |reply| {
                let mut id = String::new();
                follow(IMPORT, reply, |line| {
                    if line.status.starts_with("sha256:") {
                        id = line.status;
                    }
                })?;
                Ok(id)
            });
            let fault = tar.fault.take();
            drop(tar);
            match fault {
                // Why the import broke.
                Some(error) => Err(reply.fault(error)),
                None => imported,
            }
        })
    }

    /// The images that have a name in `repository`.
    pub fn list_images_of(&self, repository: &str) -> Result<Vec<wire::ImageSummary>, DockerError> {
        let wanted = filters(&[("reference", vec![repository])].into());
        self.ask(&Ask::get("list images", format!("/images/json?filters={wanted}")))?.json()
    }

    /// The images without a name, and without another one built on them, that carry the label `key`.
    pub fn list_nameless_images(&self, key: &str) -> Result<Vec<wire::ImageSummary>, DockerError> {
        let wanted = filters(&[("dangling", vec!["true"]), ("label", vec![key])].into());
        self.ask(&Ask::get("list images", format!("/images/json?filters={wanted}")))?.json()
    }

    /// How an image is built, its configuration as the Engine wrote it.
    pub fn inspect_image_build(&self, reference: &str) -> Result<wire::ImageBuild, DockerError> {
        const CALL: &str = "inspect image";
        let reference = checked_reference(CALL, reference)?;
        self.ask(&Ask::get(CALL, format!("/images/{reference}/json")))?.json()
    }
}

/// An archive on its way from one call to another. An Engine that fails in the middle of an export
/// ends it as if it were whole, and takes it back so: only the archive's own end tells.
struct WholeTar<R> {
    from: R,
    /// Zero bytes at the end of what has passed.
    zeros: usize,
    unwanted: Arc<AtomicBool>,
    fault: Option<io::Error>,
}

impl<R: Read> WholeTar<R> {
    fn new(from: R, unwanted: Arc<AtomicBool>) -> WholeTar<R> {
        WholeTar { from, zeros: 0, unwanted, fault: None }
    }

    fn read_whole(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.from.read(buffer)?;
        if bytes == 0 && self.zeros < TAR_END_BYTES && !buffer.is_empty() {
            let error = "the archive ends before its end";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
        }
        let passed = &buffer[..bytes];
        self.zeros = match passed.iter().rposition(|byte| *byte != 0) {
            Some(last) => bytes - 1 - last,
            None => self.zeros.saturating_add(bytes),
        };
        Ok(bytes)
    }
}

impl<R: Read> Read for WholeTar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unwanted.load(Ordering::Relaxed) {
            return Ok(0);
        }
        self.read_whole(buffer).inspect_err(|error| {
            self.fault = Some(io::Error::new(error.kind(), error.to_string()));
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn passes(bytes: &[u8]) -> io::Result<usize> {
        let mut tar = WholeTar::new(bytes, Arc::default());
        io::copy(&mut tar, &mut io::sink()).map(|bytes| usize::try_from(bytes).unwrap())
    }

    #[test]
    fn archive_without_its_end_is_an_error() {
        let whole = [vec![1; 512], vec![0; TAR_END_BYTES]].concat();
        assert_eq!(passes(&whole).unwrap(), whole.len());
        assert!(passes(&whole[..whole.len() - 1]).is_err());
        assert!(passes(&[0, 1].repeat(TAR_END_BYTES)).is_err());
        assert!(passes(&[]).is_err());
    }
}
