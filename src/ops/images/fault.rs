//! Why an image is not available, in words for the user whose task it was.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::docker::DockerError;
use crate::model::task::environment_reference;

/// Why an image is not available.
#[derive(Debug)]
pub enum ImageFault {
    /// Neither a local image nor a tarball. Nothing is pulled: an environment's name means nothing
    /// to a public registry, and a stranger may own it there (contract S11).
    NoEnvironment { name: String, directory: PathBuf },
    /// The tarball directory can't be read.
    Directory { directory: PathBuf, source: io::Error },
    /// The Engine did not take the tarball.
    Tarball { path: PathBuf, source: DockerError },
    /// The tarball can't be opened.
    Unreadable { path: PathBuf, source: io::Error },
    /// The tarball holds several images and none of them is the wanted one.
    OtherImages { path: PathBuf, wanted: String, holds: Vec<String> },
    /// Loading took longer than `DOCKER_IMAGE_SYNC_TIMEOUT`.
    LoadTooLong { path: PathBuf, after: Duration },
    /// The registry gave nothing, and there is no local image.
    NotPulled { reference: String, source: DockerError },
    /// `pull: never`, and there is no local image.
    NotLocal { reference: String },
    /// The Engine is away; worth another try.
    Engine(DockerError),
}

impl std::error::Error for ImageFault {}

impl fmt::Display for ImageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageFault::NoEnvironment { name, directory } => write!(
                f,
                "environment {name:?} does not exist on this node: no local image {} and no tarball \
                 {}-<unix seconds>.tar in {}",
                environment_reference(name),
                name.to_lowercase(),
                directory.display()
            ),
            ImageFault::Directory { directory, source } => {
                write!(f, "tarball directory {}: {source}", directory.display())
            }
            ImageFault::Tarball { path, source } => {
                write!(f, "the Engine can't load {}: {source}", path.display())
            }
            ImageFault::Unreadable { path, source } => {
                write!(f, "can't read {}: {source}", path.display())
            }
            ImageFault::OtherImages { path, wanted, holds } => write!(
                f,
                "{} holds {} and not {wanted}",
                path.display(),
                if holds.is_empty() { "no image".to_owned() } else { holds.join(", ") }
            ),
            ImageFault::LoadTooLong { path, after } => write!(
                f,
                "loading {} took longer than DOCKER_IMAGE_SYNC_TIMEOUT ({} s)",
                path.display(),
                after.as_secs()
            ),
            ImageFault::NotPulled { reference, source } => {
                write!(f, "image {reference} can't be pulled and is not here: {source}")
            }
            ImageFault::NotLocal { reference } => {
                write!(f, "image {reference} is not here and was not to be pulled")
            }
            ImageFault::Engine(error) => write!(f, "Docker Engine: {error}"),
        }
    }
}
