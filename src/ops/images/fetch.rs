//! Pull and load: the long calls, on a patient thread.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tarball::Tarball;
use super::waiters::Loaded;
use super::{ImageFault, ImageReady, ImageResult, ready};
use crate::docker::Progress;
use crate::limits::IMAGE_PULL_DEADLINE;
use crate::model::task::{ImageSource, environment_reference};
use crate::ops::Node;
use crate::threads::lock;

pub(super) fn make_available(
    node: &Node,
    source: &ImageSource,
    tarball: Option<&Tarball>,
) -> ImageResult {
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
        // Whether it is here is not known: that is no outcome of the task.
        (_, Err(error)) if error.is_unclear() => Err(ImageFault::Engine(error)),
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
    let mut tar = Tar { file: File::open(path).map_err(unreadable)?, failed: None };
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
    file: File,
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
