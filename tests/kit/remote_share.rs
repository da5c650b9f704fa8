//! A share that other machines change: a FUSE file system whose tree the test changes behind the kernel's
//! back, so that no event tells of it here. It can be made to hang and to go on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use super::hung_share::{self, Request};

/// A mount of such a share. Dropping it unmounts it.
#[derive(Debug)]
pub struct RemoteShare {
    path: PathBuf,
    far: Arc<Far>,
    server: Option<JoinHandle<()>>,
}

/// The far end.
#[derive(Debug, Default)]
struct Far {
    /// By path from the root, which is "".
    tree: Mutex<BTreeMap<PathBuf, Node>>,
    made: AtomicU64,
    hangs: AtomicBool,
    over: AtomicBool,
    readings: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    inode: u64,
    is_dir: bool,
    changed: u64,
}

impl RemoteShare {
    /// Mounts an empty one on `directory`.
    #[track_caller]
    pub fn over(directory: &Path) -> RemoteShare {
        let device = hung_share::mount_fuse(directory).expect("a FUSE mount, as root");
        let far = Arc::<Far>::default();
        far.make("", true);
        let served = Arc::clone(&far);
        let server = spawn(move || served.serve(device));
        RemoteShare { path: directory.to_owned(), far, server: Some(server) }
    }

    /// Another machine makes a directory.
    pub fn make_dir(&self, path: &str) {
        self.far.make(path, true);
    }

    /// Another machine writes a file.
    pub fn write(&self, path: &str) {
        self.far.make(path, false);
    }

    /// Another machine removes this and all below.
    pub fn remove(&self, path: &str) {
        self.far.tree.lock().expect("the tree").retain(|at, _| !at.starts_with(path));
    }

    /// From now on nothing is answered, until it is told to go on.
    pub fn hang(&self) {
        self.far.hangs.store(true, Ordering::Relaxed);
    }

    pub fn go_on(&self) {
        self.far.hangs.store(false, Ordering::Relaxed);
    }

    /// How often directories have been opened here.
    pub fn readings(&self) -> u64 {
        self.far.readings.load(Ordering::Relaxed)
    }
}

impl Drop for RemoteShare {
    fn drop(&mut self) {
        hung_share::unmount(&self.path);
        self.far.over.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

// ── the kernel's FUSE protocol (linux/fuse.h), as far as a directory tree needs it ───────────────

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const MKDIR: u32 = 9;
const STATFS: u32 = 17;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;

impl Far {
    fn make(&self, path: &str, is_dir: bool) {
        let changed = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let mut tree = self.tree.lock().expect("the tree");
        let node = tree.entry(path.into()).or_insert(Node { inode: changed, is_dir, changed });
        node.changed = changed;
    }

    fn serve(&self, mut device: File) {
        while !self.over.load(Ordering::Relaxed) {
            if self.hangs.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(20));
                continue;
            }
            match Request::next(&mut device) {
                Ok(Some(request)) => {
                    // Its caller may have been killed, or the mount be gone.
                    let _ = self.answer(&mut device, request);
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    fn answer(&self, device: &mut File, request: Request) -> std::io::Result<()> {
        let tree = self.tree.lock().expect("the tree").clone();
        let found = tree.iter().find(|(_, node)| node.inode == request.node);
        let missing = -nix::libc::ENOENT;
        match request.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => Ok(()),
            RELEASEDIR => request.answer(device, 0, &[]),
            STATFS => request.answer(device, 0, &[0; 80]),
            OPENDIR => {
                self.readings.fetch_add(1, Ordering::Relaxed);
                request.answer(device, 0, &[0; 16])
            }
            GETATTR => match found {
                Some((_, node)) => {
                    let mut reply = vec![0; 16];
                    reply.extend(attributes(node));
                    request.answer(device, 0, &reply)
                }
                None => request.answer(device, missing, &[]),
            },
            LOOKUP => {
                let path = found.map(|(path, _)| path.join(name(&request.body)));
                match path.and_then(|path| tree.get(&path)) {
                    Some(node) => request.answer(device, 0, &entry(node)),
                    None => request.answer(device, missing, &[]),
                }
            }
            // Somebody on this machine makes one.
            MKDIR => {
                let Some((dir, _)) = found else { return request.answer(device, missing, &[]) };
                let path = dir.join(name(&request.body[8..]));
                self.make(path.to_str().expect("a plain name"), true);
                let node = self.tree.lock().expect("the tree")[&path];
                request.answer(device, 0, &entry(&node))
            }
            READDIR => {
                let Some((dir, _)) = found else { return request.answer(device, missing, &[]) };
                let word = |at: usize| {
                    u64::from_ne_bytes(request.body[at..at + 8].try_into().expect("eight bytes"))
                };
                let (offset, room) = (word(8) as usize, word(16) as u32 as usize);
                let below = tree.iter().filter(|(path, _)| path.parent() == Some(dir));
                let mut reply = Vec::new();
                for (at, (path, node)) in below.enumerate().skip(offset) {
                    let name = path.file_name().expect("a name").as_encoded_bytes();
                    let mut entry = node.inode.to_ne_bytes().to_vec();
                    entry.extend((at as u64 + 1).to_ne_bytes());
                    entry.extend((name.len() as u32).to_ne_bytes());
                    entry.extend((mode(node) >> 12).to_ne_bytes());
                    entry.extend(name);
                    entry.resize(entry.len().next_multiple_of(8), 0);
                    if reply.len() + entry.len() > room {
                        break;
                    }
                    reply.extend(entry);
                }
                request.answer(device, 0, &reply)
            }
            _ => request.answer(device, -nix::libc::ENOSYS, &[]),
        }
    }
}

fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// `struct fuse_entry_out`; nothing of it is to be cached.
fn entry(node: &Node) -> Vec<u8> {
    let mut reply = node.inode.to_ne_bytes().to_vec();
    reply.extend([0; 32]);
    reply.extend(attributes(node));
    reply
}

fn mode(node: &Node) -> u32 {
    if node.is_dir { DIRECTORY } else { FILE }
}

/// `struct fuse_attr`.
fn attributes(node: &Node) -> [u8; 88] {
    let mut reply = [0; 88];
    reply[0..8].copy_from_slice(&node.inode.to_ne_bytes());
    reply[32..40].copy_from_slice(&node.changed.to_ne_bytes());
    reply[60..64].copy_from_slice(&mode(node).to_ne_bytes());
    reply[64..68].copy_from_slice(&2_u32.to_ne_bytes());
    reply
}
