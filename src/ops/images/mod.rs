//! Images: made available once for many waiters (contract 5.7, 5.8). Looking is quick and happens on
//! a lane's worker, scanning the tarball directory on a files thread, load and pull on a patient one.

pub mod fault;
mod fetch;
pub mod sync;
mod tarball;
pub mod waiters;

use std::sync::Arc;

use super::Node;
use crate::docker::{DockerError, Image};
use crate::lanes::{Next, Place};
use crate::model::task::{ImageSource, Pull, environment_reference};
use crate::threads::lock;
pub use fault::ImageFault;
use fetch::make_available;
pub use sync::{Synced, list, sync};
use tarball::{Tarball, newest_tarball};
pub use waiters::Images;
use waiters::{Loaded, Waiter};

/// An image that the Engine has.
#[derive(Clone, Debug)]
pub struct ImageReady {
    pub image: Arc<Image>,
    /// What the task's record should say besides.
    pub note: Option<String>,
}

/// What became of making an image available; shared by all who waited for it.
pub type ImageResult = Result<ImageReady, Arc<ImageFault>>;

/// How a task's start order goes on once its image is there, or can't be.
pub type Then = Box<dyn FnOnce(ImageResult) -> Next + Send>;

/// Makes the image of `source` available and goes on with `then` on the lane's worker.
pub fn ensure(node: &Arc<Node>, source: ImageSource, then: Then) -> Next {
    match &source {
        ImageSource::Registry(_, Pull::Always) => fetch(node, source, None, then),
        ImageSource::Registry(reference, pull) => match node.engine.inspect_image(reference) {
            Ok(image) => then(Ok(ready(image))),
            Err(error) if !error.is_missing() => then(Err(Arc::new(ImageFault::Engine(error)))),
            Err(_) if *pull == Pull::Never => {
                then(Err(Arc::new(ImageFault::NotLocal { reference: reference.clone() })))
            }
            Err(_) => fetch(node, source, None, then),
        },
        ImageSource::Environment(name) => {
            let (node, name) = (Arc::clone(node), name.clone());
            Next::Then(
                Place::Files,
                Box::new(move || {
                    let found = newest_tarball(&node.settings.container_tar_dir, &name);
                    Next::Then(
                        Place::Worker,
                        Box::new(move || environment(&node, name, found, then)),
                    )
                }),
            )
        }
    }
}

fn environment(
    node: &Arc<Node>,
    name: String,
    found: Result<Option<Tarball>, ImageFault>,
    then: Then,
) -> Next {
    let local = match local_environment(node, &name) {
        Ok(local) => local,
        Err(error) => return then(Err(Arc::new(ImageFault::Engine(error)))),
    };
    match (found, local) {
        (Ok(Some(tarball)), local) if wants_load(node, &name, local.as_ref(), &tarball) => {
            fetch(node, ImageSource::Environment(name), Some(tarball), then)
        }
        (Ok(_), Some(image)) => then(Ok(ready(image))),
        (Err(fault), Some(image)) => {
            // The share is away, the image is here: run, and say so.
            let note = Some(format!("used the local image: {fault}"));
            then(Ok(ImageReady { note, ..ready(image) }))
        }
        (Ok(_), None) => {
            let directory = node.settings.container_tar_dir.clone();
            then(Err(Arc::new(ImageFault::NoEnvironment { name, directory })))
        }
        (Err(fault), None) => then(Err(Arc::new(fault))),
    }
}

/// Pulls or loads, once for all who ask meanwhile.
fn fetch(node: &Arc<Node>, source: ImageSource, tarball: Option<Tarball>, then: Then) -> Next {
    let key = source.reference();
    let node = Arc::clone(node);
    match node.images.lead(&node, &key) {
        Some(lead) => Next::Then(
            Place::Patient,
            Box::new(move || {
                let result = lead.finish(make_available(&node, &source, tarball.as_ref()));
                Next::Then(Place::Worker, Box::new(move || then(result)))
            }),
        ),
        None => Next::Park(Box::new(move |resume| {
            let owner = Arc::clone(&node);
            let waiter: Waiter = Box::new(move |result| {
                resume.resume(Box::new(move || match result {
                    Some(result) => then(result),
                    None => ensure(&owner, source, then),
                }));
            });
            if let Err(waiter) = node.images.wait(&key, waiter) {
                waiter(None);
            }
        })),
    }
}

fn local_environment(node: &Node, name: &str) -> Result<Option<Image>, DockerError> {
    match node.engine.inspect_image(&environment_reference(name)) {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn wants_load(node: &Node, name: &str, local: Option<&Image>, tarball: &Tarball) -> bool {
    let Some(local) = local else { return true };
    let seconds = local.created.map_or(0, |at| at.timestamp());
    let same = Loaded { tarball: tarball.path.clone(), image: local.id.clone() };
    i64::try_from(tarball.made_at).unwrap_or(i64::MAX) > seconds
        && lock(&node.images.loaded).get(name) != Some(&same)
}

fn ready(image: Image) -> ImageReady {
    ImageReady { image: Arc::new(image), note: None }
}
