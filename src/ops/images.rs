//! Images: made available once for many waiters (contract 5.7, 5.8). Looking is quick and happens on
//! a lane's worker, scanning the tarball directory on a files thread, load and pull on a patient one.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::node::lock;
use super::{Node, OpError};
use crate::docker::{DockerError, Image, ImageSummary, Progress};
use crate::lanes::{Next, Place, Pool};
use crate::limits::{IMAGE_PULL_DEADLINE, POOL_WAITING_MAX};
use crate::model::task::{ImageSource, Pull, environment_reference};

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

/// Images being made available, and tarballs already loaded.
#[derive(Default)]
pub struct Images {
    in_flight: Mutex<HashMap<String, InFlight>>,
    /// Which tarball made which image. A hand-made tarball may carry a number newer than its image's
    /// own age, and would be loaded again for every task (contract L19).
    loaded: Mutex<HashMap<String, Loaded>>,
}

#[derive(Default)]
struct InFlight {
    progress: String,
    waiters: Vec<Waiter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Loaded {
    tarball: PathBuf,
    image: String,
}

/// Called with the result, or with `None`: whoever led has gone without one, look again.
type Waiter = Box<dyn FnOnce(Option<ImageResult>) + Send>;

/// A tarball of an environment (contract 5.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tarball {
    pub path: PathBuf,
    /// Unix seconds out of its name.
    pub made_at: u64,
}

/// What `POST /api/docker/sync/{name}` did.
#[derive(Debug, PartialEq, Eq)]
pub enum Synced {
    NothingToDo,
    NoTarball,
    Loaded(PathBuf),
}

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

/// Tells `done` all local images, from whatever thread.
pub fn list(
    node: &Arc<Node>,
    done: impl FnOnce(Result<Vec<ImageSummary>, OpError>) + Send + 'static,
) {
    let owner = Arc::clone(node);
    let job = Box::new(move || done(owner.engine.list_images().map_err(OpError::from)));
    // A refused job takes `done` with it, and its caller is told that nothing came.
    if node.lanes.submit(Pool::Patient, job).is_err() {
        log::warn!("no room to list images: {POOL_WAITING_MAX} long calls wait already");
    }
}

/// Syncs an environment from its newest tarball and tells `done`, from whatever thread.
pub fn sync(
    node: &Arc<Node>,
    name: String,
    done: impl FnOnce(Result<Synced, OpError>) + Send + 'static,
) {
    let owner = Arc::clone(node);
    let scan = Box::new(move || {
        let found = newest_tarball(&owner.settings.container_tar_dir, &name);
        sync_found(&owner, name, found, Box::new(done));
    });
    if node.lanes.submit(Pool::Files, scan).is_err() {
        log::warn!("no room to look for tarballs: {POOL_WAITING_MAX} operations wait already");
    }
}

type SyncDone = Box<dyn FnOnce(Result<Synced, OpError>) + Send>;

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
    let path = tarball.path.clone();
    let source = ImageSource::Environment(name);
    let key = source.reference();
    let Some(lead) = node.images.lead(node, &key) else {
        let waiter: Waiter = Box::new(move |result| {
            done(match result {
                Some(Ok(_)) => Ok(Synced::Loaded(path)),
                Some(Err(fault)) => Err(OpError::Image(fault)),
                None => Err(OpError::Stopping),
            });
        });
        if let Err(waiter) = node.images.wait(&key, waiter) {
            // It has just ended; what it loaded is what we were asked for.
            drop(waiter);
        }
        return;
    };
    let owner = Arc::clone(node);
    let load = Box::new(move || {
        let result = lead.finish(make_available(&owner, &source, Some(&tarball)));
        done(match result {
            Ok(_) => Ok(Synced::Loaded(path)),
            Err(fault) => Err(OpError::Image(fault)),
        });
    });
    if node.lanes.submit(Pool::Patient, load).is_err() {
        log::warn!("no room to load {key}: {POOL_WAITING_MAX} long calls wait already");
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

fn make_available(node: &Node, source: &ImageSource, tarball: Option<&Tarball>) -> ImageResult {
    match (source, tarball) {
        (ImageSource::Registry(reference, _), _) => pull(node, reference),
        (ImageSource::Environment(name), Some(tarball)) => load(node, name, tarball),
        (ImageSource::Environment(name), None) => Err(ImageFault::NoEnvironment {
            name: name.clone(),
            directory: node.settings.container_tar_dir.clone(),
        }),
    }
    .map_err(Arc::new)
}

fn pull(node: &Node, reference: &str) -> Result<ImageReady, ImageFault> {
    let mut progress = |now: Progress| {
        node.images.say(reference, format!("pulling {reference}: {}", in_words(&now)));
    };
    let pulled = node.engine.pull_image(reference, IMAGE_PULL_DEADLINE, &mut progress, &node.stop);
    match (pulled, node.engine.inspect_image(reference)) {
        (Ok(()), Ok(image)) => Ok(ready(image)),
        (Err(error), _) if error.is_engine_trouble() && !error.is_timeout() => {
            Err(ImageFault::Engine(error))
        }
        // With the registry out of reach an image that is here is used (contract 5.8).
        (Err(error), Ok(image)) => {
            let note = Some(format!("used the local image: {error}"));
            Ok(ImageReady { note, ..ready(image) })
        }
        (Err(source), Err(_)) => {
            Err(ImageFault::NotPulled { reference: reference.to_owned(), source })
        }
        (Ok(()), Err(error)) => Err(ImageFault::Engine(error)),
    }
}

fn load(node: &Node, name: &str, tarball: &Tarball) -> Result<ImageReady, ImageFault> {
    let reference = environment_reference(name);
    let path = &tarball.path;
    let deadline = Duration::from_secs(node.settings.docker_image_sync_timeout);
    let begun = Instant::now();
    let mut progress = |now: Progress| {
        node.images.say(&reference, format!("loading {}: {}", path.display(), in_words(&now)));
    };
    let unreadable = |source| ImageFault::Unreadable { path: path.clone(), source };
    let mut tar = Tar { file: std::fs::File::open(path).map_err(unreadable)?, failed: None };
    let loaded = node.engine.load_image(&mut tar, deadline, &mut progress, &node.stop);
    let loaded = loaded.map_err(|source| match (source, tar.failed.take()) {
        (_, Some(source)) => unreadable(source),
        (source, None) if source.is_timeout() || begun.elapsed() >= deadline => {
            ImageFault::LoadTooLong { path: path.clone(), after: deadline }
        }
        (source, None) if source.is_engine_trouble() => ImageFault::Engine(source),
        (source, None) => ImageFault::Tarball { path: path.clone(), source },
    })?;
    if !loaded.references.contains(&reference) {
        // One image under another name is the environment all the same; of several, none can be
        // told to be it (contract L21).
        let only = match (&loaded.references[..], &loaded.ids[..]) {
            ([one], []) | ([], [one]) => one,
            (references, ids) => {
                let holds = references.iter().chain(ids).cloned().collect();
                return Err(ImageFault::OtherImages {
                    path: path.clone(),
                    wanted: reference,
                    holds,
                });
            }
        };
        node.engine
            .tag_image(only, &format!("kohakuriver/{name}"), "base")
            .map_err(ImageFault::Engine)?;
    }
    let image = node.engine.inspect_image(&reference).map_err(ImageFault::Engine)?;
    let made = Loaded { tarball: path.clone(), image: image.id.clone() };
    lock(&node.images.loaded).insert(name.to_owned(), made);
    Ok(ready(image))
}

/// A tarball being sent. To the Engine's client a read that fails is a broken upload, and would pass
/// for a trouble of the Engine that is worth another try; this remembers what it was.
struct Tar {
    file: std::fs::File,
    failed: Option<io::Error>,
}

impl io::Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failed = Some(error);
            }
            kind.into()
        })
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

/// The newest `{lower(name)}-{digits}.tar`; no directory is no tarball.
fn newest_tarball(directory: &Path, name: &str) -> Result<Option<Tarball>, ImageFault> {
    let fault = |source| ImageFault::Directory { directory: directory.to_owned(), source };
    let prefix = format!("{}-", name.to_lowercase());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fault)?,
    };
    let mut newest: Option<Tarball> = None;
    for entry in entries {
        let entry = entry.map_err(fault)?;
        let file_name = entry.file_name();
        let digits = file_name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".tar"))
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let Some(made_at) = digits.and_then(|digits| digits.parse().ok()) else { continue };
        if newest.as_ref().is_none_or(|newest| made_at > newest.made_at) {
            newest = Some(Tarball { path: entry.path(), made_at });
        }
    }
    Ok(newest)
}

fn in_words(progress: &Progress) -> String {
    const MEGABYTE: u64 = 1_000_000;
    match progress.total_bytes {
        0 if progress.done_bytes == 0 => progress.status.clone(),
        0 => format!("{} {} MB", progress.status, progress.done_bytes / MEGABYTE),
        total => {
            format!("{} {}%", progress.status, progress.done_bytes.saturating_mul(100) / total)
        }
    }
}

fn ready(image: Image) -> ImageReady {
    ImageReady { image: Arc::new(image), note: None }
}

impl Images {
    /// What is being done for `reference` now, for people who wait.
    pub fn progress(&self, reference: &str) -> Option<String> {
        let in_flight = lock(&self.in_flight);
        in_flight.get(reference).map(|one| one.progress.clone()).filter(|text| !text.is_empty())
    }

    fn say(&self, reference: &str, progress: String) {
        if let Some(one) = lock(&self.in_flight).get_mut(reference) {
            one.progress = progress;
        }
    }

    /// The right to make `reference` available; `None` while somebody else does.
    fn lead(&self, node: &Arc<Node>, reference: &str) -> Option<Lead> {
        let mut in_flight = lock(&self.in_flight);
        if in_flight.contains_key(reference) {
            return None;
        }
        in_flight.insert(reference.to_owned(), InFlight::default());
        Some(Lead { node: Arc::clone(node), reference: reference.to_owned() })
    }

    /// Waits for the one who leads; gives the waiter back when nobody does.
    fn wait(&self, reference: &str, waiter: Waiter) -> Result<(), Waiter> {
        match lock(&self.in_flight).get_mut(reference) {
            Some(one) => {
                one.waiters.push(waiter);
                Ok(())
            }
            None => Err(waiter),
        }
    }
}

/// Held by the one who pulls or loads. Gone without a result (a panic, a stop), it sends the waiters
/// to look again.
struct Lead {
    node: Arc<Node>,
    reference: String,
}

impl Lead {
    fn finish(self, result: ImageResult) -> ImageResult {
        for waiter in self.take_waiters() {
            waiter(Some(result.clone()));
        }
        result
    }

    fn take_waiters(&self) -> Vec<Waiter> {
        let ended = lock(&self.node.images.in_flight).remove(&self.reference);
        ended.map(|one| one.waiters).unwrap_or_default()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        for waiter in self.take_waiters() {
            waiter(None);
        }
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("in_flight", &lock(&self.in_flight).len()).finish()
    }
}

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

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn newest_tarball_is_the_largest_number_with_the_exact_name() {
        let directory = tempfile::tempdir().unwrap();
        for name in
            ["env-5.tar", "env-40.tar", "env-x-90.tar", "env-7.tar.gz", "env-.tar", "Env-99.tar"]
        {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let newest = newest_tarball(directory.path(), "ENV").unwrap().unwrap();
        assert_eq!((newest.made_at, newest.path.ends_with("env-40.tar")), (40, true));
    }

    #[test]
    fn missing_directory_holds_no_tarball() {
        assert!(newest_tarball(Path::new("/does/not/exist"), "env").unwrap().is_none());
    }
}
