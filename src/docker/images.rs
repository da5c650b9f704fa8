//! Images: list, look at, tag, remove (quick), pull and load (patient). Called by `ops`, the
//! patient two on a `patient-N` thread. Never decides which image is wanted.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::ask::{Ask, Upload};
use super::call::Reply;
use super::containers::moment;
use super::error::cut_said;
use super::lines::{Line, each_line};
use super::names::{checked_reference, escaped};
use super::{DockerError, Engine};
use crate::limits;
use crate::stop::Stop;
use crate::wire::docker as wire;

/// An image as the Engine has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// `sha256:…`
    pub id: String,
    /// `repository:tag`, every name it has.
    pub tags: Vec<String>,
    pub created: Option<DateTime<Utc>>,
    pub size_bytes: u64,
    pub user: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub labels: std::collections::BTreeMap<String, String>,
    /// `22/tcp`: what containers of it may publish.
    pub exposed_ports: Vec<String>,
}

/// How far a pull or a load has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The layer's short id; empty for the whole.
    pub layer: String,
    /// The Engine's words: `Downloading`, `Pull complete`; ours for a load: `Sending`.
    pub status: String,
    pub done_bytes: u64,
    /// 0 is unknown.
    pub total_bytes: u64,
}

/// What a load brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// `repository:tag` of images that carry a name in the archive.
    pub references: Vec<String>,
    /// `sha256:…` of those that carry none.
    pub ids: Vec<String>,
}

impl Engine {
    /// Every image, named or not, without intermediate ones.
    pub fn list_images(&self) -> Result<Vec<wire::ImageSummary>, DockerError> {
        self.ask(&Ask::get("list images", "/images/json".to_owned()))?.json()
    }

    /// Looks at one image by name or id.
    pub fn inspect_image(&self, reference: &str) -> Result<Image, DockerError> {
        const CALL: &str = "inspect image";
        let reference = checked_reference(CALL, reference)?;
        let inspect: wire::ImageInspect =
            self.ask(&Ask::get(CALL, format!("/images/{reference}/json")))?.json()?;
        Ok(Image::from(inspect))
    }

    /// Gives an image another name. A name that another image had moves.
    pub fn tag_image(&self, id: &str, repository: &str, tag: &str) -> Result<(), DockerError> {
        const CALL: &str = "tag image";
        let id = checked_reference(CALL, id)?;
        let (repository, tag) = (escaped(repository), escaped(tag));
        let target = format!("/images/{id}/tag?repo={repository}&tag={tag}");
        self.ask(&Ask::post(CALL, target))?.done();
        Ok(())
    }

    /// Takes a name off an image; without a name left, the image goes.
    ///
    /// # Errors
    /// Conflict: a container uses it.
    pub fn remove_image(&self, reference: &str) -> Result<(), DockerError> {
        const CALL: &str = "remove image";
        let reference = checked_reference(CALL, reference)?;
        let ask = Ask::delete(CALL, format!("/images/{reference}"));
        self.ask(&ask.within(limits::ENGINE_START_DEADLINE))?.done();
        Ok(())
    }

    /// Pulls `reference`; without tag or digest, its `latest` (the Engine would take every tag).
    /// When `stop` goes up, or at the deadline, the Engine gives up too.
    ///
    /// # Errors
    /// Refused: registry out of reach, unknown image; the Engine's text says which.
    pub fn pull_image(
        &self,
        reference: &str,
        deadline: Duration,
        progress: &mut dyn FnMut(Progress),
        stop: &Stop,
    ) -> Result<(), DockerError> {
        const CALL: &str = "pull image";
        let reference = with_tag(checked_reference(CALL, reference)?);
        let target = format!("/images/create?fromImage={}", escaped(&reference));
        let ask = Ask::post(CALL, target).within(deadline);
        self.ask_patiently(&ask, None, stop, |reply| {
            follow(CALL, reply, |line| {
                progress(Progress {
                    layer: line.id,
                    status: line.status,
                    done_bytes: line.progress_detail.current,
                    total_bytes: line.progress_detail.total,
                });
            })
        })
    }

    /// Loads the images of an archive made by `docker save`. A read of `tar` is not ended by the
    /// deadline: on a dead network file system this thread waits with it.
    ///
    /// # Errors
    /// Refused: not such an archive, no space; the Engine's text says which.
    pub fn load_image(
        &self,
        tar: &mut dyn Read,
        deadline: Duration,
        progress: &mut dyn FnMut(Progress),
        stop: &Stop,
    ) -> Result<Loaded, DockerError> {
        const CALL: &str = "load image";
        // Quiet: the Engine would write progress while we still send, and each wait for the other.
        let ask = Ask::post(CALL, "/images/load?quiet=true".to_owned()).tar().within(deadline);
        let unwanted = Arc::new(AtomicBool::new(false));
        let mut sending = Sending { tar, progress, sent_bytes: 0, unwanted: Arc::clone(&unwanted) };
        let upload = Upload { bytes: &mut sending, unwanted };
        self.ask_patiently(&ask, Some(upload), stop, |reply| {
            let mut loaded = Loaded::default();
            follow(CALL, reply, |line| loaded.note(&line.stream))?;
            Ok(loaded)
        })
    }
}

/// The archive on its way up.
struct Sending<'a> {
    tar: &'a mut dyn Read,
    progress: &'a mut dyn FnMut(Progress),
    sent_bytes: u64,
    unwanted: Arc<AtomicBool>,
}

impl Read for Sending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unwanted.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let bytes = self.tar.read(buffer)?;
        self.sent_bytes += bytes as u64;
        (self.progress)(Progress {
            status: "Sending".to_owned(),
            done_bytes: self.sent_bytes,
            ..Progress::default()
        });
        Ok(bytes)
    }
}

impl Loaded {
    fn note(&mut self, said: &str) {
        if let Some(id) = said.strip_prefix("Loaded image ID: ") {
            self.ids.push(id.trim().to_owned());
        } else if let Some(name) = said.strip_prefix("Loaded image: ") {
            self.references.push(name.trim().to_owned());
        }
    }
}

/// Reads a progress stream to its end. An error in it is the call's, though the status was 200.
pub(super) fn follow(
    call: &'static str,
    mut reply: Reply,
    mut on: impl FnMut(wire::ProgressLine),
) -> Result<(), DockerError> {
    let mut error = String::new();
    let read = each_line(&mut reply.reader(), |line| {
        let Line::Whole(line) = line else { return };
        match serde_json::from_slice::<wire::ProgressLine>(line) {
            Ok(line) if line.error.is_empty() => on(line),
            Ok(line) => error = line.error,
            Err(_) => log::debug!("{call}: unreadable progress"),
        }
    });
    if !error.is_empty() {
        return Err(DockerError::Refused { call, status: 200, said: cut_said(error) });
    }
    read.map_err(|error| reply.fault(error))
}

/// `reference` with a tag, unless it has one or a digest.
fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains([':', '@']) { reference.to_owned() } else { format!("{reference}:latest") }
}

impl From<wire::ImageInspect> for Image {
    fn from(inspect: wire::ImageInspect) -> Image {
        let wire::ImageInspect { id, repo_tags, created, size, config } = inspect;
        Image {
            id,
            tags: repo_tags,
            created: moment(&created),
            size_bytes: size.try_into().unwrap_or(0),
            user: config.user,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            working_dir: config.working_dir,
            labels: config.labels,
            exposed_ports: config.exposed_ports.into_keys().collect(),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_reference_without_tag_gets_latest_and_a_registry_port_is_no_tag() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
        assert_eq!(with_tag("127.0.0.1:5000/a/b:1"), "127.0.0.1:5000/a/b:1");
        assert_eq!(with_tag("a@sha256:00"), "a@sha256:00");
    }

    #[test]
    fn a_load_tells_names_and_bare_ids_apart() {
        let mut loaded = Loaded::default();
        loaded.note("Loaded image: a/b:1\n");
        loaded.note("Loaded image ID: sha256:00\n");
        loaded.note("something else");
        assert_eq!(loaded.references, ["a/b:1"]);
        assert_eq!(loaded.ids, ["sha256:00"]);
    }
}
