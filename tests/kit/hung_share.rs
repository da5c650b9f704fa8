//! A directory that never answers, as one on a file server that is gone: a FUSE mount without
//! anybody behind it. Whoever touches it waits in the kernel (and can be killed there, as on NFS)
//! until the share is healed or broken.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A mount that hangs. Dropping it unmounts it; whoever waits then gets an error.
#[derive(Debug)]
pub struct HungShare {
    path: PathBuf,
    /// `None` once the share is broken.
    device: Option<File>,
    is_mounted: bool,
}

impl HungShare {
    /// Makes `directory`, which must be there, hang from now on. What is in it is there again when
    /// the share is healed or dropped.
    #[track_caller]
    pub fn over(directory: &Path) -> HungShare {
        let device = mount_fuse(directory).expect("this test needs root and a kernel with FUSE");
        HungShare { path: directory.to_owned(), device: Some(device), is_mounted: true }
    }

    /// The file server is back: calls that wait are answered, later ones reach the directory that
    /// was hidden.
    #[track_caller]
    pub fn heal(mut self) {
        self.unmount();
        let mut device = self.device.take().expect("a share that was not broken");
        while let Some(request) = Request::next(&mut device).expect("FUSE requests") {
            request.answer_as_empty_directory(&mut device).expect("FUSE answers");
        }
    }

    /// The file server takes every request that waits and dies before it answers: now whoever waits can't
    /// even be killed, for as long as the mount is there.
    #[track_caller]
    pub fn swallow_requests(&mut self) {
        let device = self.device.as_mut().expect("a share that was not broken");
        while Request::next(device).expect("FUSE requests").is_some() {}
    }

    /// The share is given up: calls fail from now on, those that wait too, until it is dropped.
    pub fn break_down(&mut self) {
        self.device = None;
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            unmount(&self.path);
        }
    }
}

impl Drop for HungShare {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Mounts a FUSE file system on `directory`, whose server is whoever has what is returned.
pub(super) fn mount_fuse(directory: &Path) -> io::Result<File> {
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open("/dev/fuse")?;
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("river-test"), directory, Some("fuse"), flags, Some(options.as_str()))?;
    // Without it callers would wait for the handshake, and the first to be answered would not
    // be theirs.
    shake_hands(&mut device)?;
    Ok(device)
}

/// Takes a mount away, also while it is used.
pub(super) fn unmount(path: &Path) {
    if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
        eprintln!("unmount {}: {error}", path.display());
    }
}

fn shake_hands(device: &mut File) -> io::Result<()> {
    let request = Request::next(device)?.filter(|request| request.opcode == INIT);
    let request = request.ok_or_else(|| io::Error::other("no handshake was asked for"))?;
    // Version 7.31, no flags, no read-ahead, 12 requests in the background, writes of a page.
    let mut reply = [0; 64];
    reply[0..4].copy_from_slice(&7_u32.to_ne_bytes());
    reply[4..8].copy_from_slice(&31_u32.to_ne_bytes());
    reply[16..18].copy_from_slice(&12_u16.to_ne_bytes());
    reply[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
    request.answer(device, 0, &reply)
}

// ── as much of the kernel's FUSE protocol (linux/fuse.h) as a share needs that comes back ────────

const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const STATFS: u32 = 17;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The most that the kernel puts into one request, and a little more.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Nobody waits any more when nothing has come for this long.
const QUIET_MS: u16 = 300;

pub(super) struct Request {
    pub opcode: u32,
    unique: u64,
    pub node: u64,
    pub body: Vec<u8>,
}

impl Request {
    /// The next one that waits; `None` when there is none for a while.
    pub fn next(device: &mut File) -> io::Result<Option<Request>> {
        let mut bytes = vec![0; REQUEST_BYTES_MAX];
        let length = loop {
            let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(QUIET_MS))? == 0 {
                return Ok(None);
            }
            match device.read(&mut bytes) {
                Ok(length) => break length,
                // Its caller was killed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Nobody holds the mount any more.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        let opcode = u32::from_ne_bytes(bytes[4..8].try_into().expect("four bytes"));
        let unique = u64::from_ne_bytes(bytes[8..16].try_into().expect("eight bytes"));
        let node = u64::from_ne_bytes(bytes[16..24].try_into().expect("eight bytes"));
        Ok(Some(Request { opcode, unique, node, body: bytes[40..length].to_vec() }))
    }

    fn answer_as_empty_directory(self, device: &mut File) -> io::Result<()> {
        match self.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => Ok(()),
            GETATTR => {
                // Inode 1, a directory of root's with mode 0755 and two links; not to be cached.
                let mut reply = [0; 104];
                reply[16..24].copy_from_slice(&1_u64.to_ne_bytes());
                reply[76..80].copy_from_slice(&0o040_755_u32.to_ne_bytes());
                reply[80..84].copy_from_slice(&2_u32.to_ne_bytes());
                self.answer(device, 0, &reply)
            }
            STATFS => {
                // Blocks: all, free, available; files: all, free; of 4096 bytes.
                let mut reply = [0; 80];
                for field in reply[..40].chunks_exact_mut(8) {
                    field.copy_from_slice(&1_000_000_u64.to_ne_bytes());
                }
                reply[40..44].copy_from_slice(&4096_u32.to_ne_bytes());
                reply[48..52].copy_from_slice(&4096_u32.to_ne_bytes());
                self.answer(device, 0, &reply)
            }
            // The kernel asks in an older way.
            _ => self.answer(device, -nix::libc::ENOSYS, &[]),
        }
    }

    pub fn answer(self, device: &mut File, error: i32, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(error.to_ne_bytes());
        bytes.extend(self.unique.to_ne_bytes());
        bytes.extend(body);
        match device.write_all(&bytes) {
            // The caller was killed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
