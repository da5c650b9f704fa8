//! The rows about images: what is here, and the sync of one environment (contract 1.5). They belong
//! to no task, so they run on pool threads; a job that a full pool refuses takes its `done` with it,
//! and the caller is told that nothing came.

use std::path::PathBuf;
use std::sync::Arc;

use super::tarball::{Tarball, newest_tarball};
use super::waiters::Waiter;
use super::{ImageFault, local_environment, make_available, wants_load};
use crate::docker::ImageSummary;
use crate::lanes::Pool;
use crate::limits::POOL_WAITING_MAX;
use crate::model::task::ImageSource;
use crate::ops::files_thread::on_files_thread;
use crate::ops::{Node, OpError};

/// What `POST /api/docker/sync/{name}` did.
#[derive(Debug, PartialEq, Eq)]
pub enum Synced {
    NothingToDo,
    NoTarball,
    Loaded(PathBuf),
}

type SyncDone = Box<dyn FnOnce(Result<Synced, OpError>) + Send>;

/// Tells `done` all local images, from whatever thread.
pub fn list(
    node: &Arc<Node>,
    done: impl FnOnce(Result<Vec<ImageSummary>, OpError>) + Send + 'static,
) {
    let owner = Arc::clone(node);
    let job = move || done(owner.engine.list_images().map_err(OpError::from));
    submit(node, Pool::Patient, job);
}

/// Syncs an environment from its newest tarball and tells `done`, from whatever thread.
pub fn sync(node: &Arc<Node>, name: String, done: SyncDone) {
    let owner = Arc::clone(node);
    // The patient thread is what waits, and no longer than for a share that answers.
    let job = move || {
        let (directory, wanted) = (owner.settings.container_tar_dir.clone(), name.clone());
        match on_files_thread(&owner, move || newest_tarball(&directory, &wanted)) {
            Ok(found) => sync_found(&owner, name, found, done),
            Err(error) => done(Err(error)),
        }
    };
    submit(node, Pool::Patient, job);
}

fn sync_found(
    node: &Arc<Node>,
    name: String,
    found: Result<Option<Tarball>, ImageFault>,
    done: SyncDone,
) {
    let tarball = match found {
        Ok(Some(tarball)) => tarball,
        Ok(None) => return done(Ok(Synced::NoTarball)),
        Err(fault) => return done(Err(OpError::Image(Arc::new(fault)))),
    };
    match local_environment(node, &name) {
        Ok(local) if !wants_load(node, &name, local.as_ref(), &tarball) => {
            return done(Ok(Synced::NothingToDo));
        }
        Ok(_) => {}
        Err(error) => return done(Err(OpError::Docker(error))),
    }
    let source = ImageSource::Environment(name.clone());
    let key = source.reference();
    if let Some(lead) = node.images.lead(node, &key) {
        let result = lead.finish(make_available(node, &source, Some(&tarball)));
        return done(result.map(|_| Synced::Loaded(tarball.path)).map_err(OpError::Image));
    }
    let owner = Arc::clone(node);
    let waiter: Waiter = Box::new(move |result| match result {
        Some(Ok(_)) => done(Ok(Synced::Loaded(tarball.path))),
        Some(Err(fault)) => done(Err(OpError::Image(fault))),
        None => sync(&owner, name, done),
    });
    if let Err(waiter) = node.images.wait(&key, waiter) {
        waiter(None);
    }
}

fn submit(node: &Node, pool: Pool, job: impl FnOnce() + Send + 'static) {
    if node.lanes.submit(pool, Box::new(job)).is_err() {
        log::warn!("images: {POOL_WAITING_MAX} jobs wait for a {pool:?} thread already");
    }
}
