//! A file system of a test's own that is soon full: a tmpfs with a bound on bytes and on files.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Names that nobody else uses.
const FILLER: &str = "filler";

/// A small tmpfs over a directory. Dropping it unmounts it, and what was in it is gone.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one over `directory`, which must be there.
    #[track_caller]
    pub fn over(directory: &Path, bytes: usize, files: usize) -> SmallDisk {
        let options = format!("size={bytes},nr_inodes={files},mode=0755");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("river-test"), directory, Some("tmpfs"), flags, Some(options.as_str()))
            .expect("mount, as root");
        SmallDisk { path: directory.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes every byte that is left.
    #[track_caller]
    pub fn fill(&self) {
        let mut file = File::create(self.path.join(FILLER)).expect("the filler");
        loop {
            match file.write(&[b'x'; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("filling {}: {error}", self.path.display()),
            }
        }
    }

    /// Takes every inode that is left.
    #[track_caller]
    pub fn fill_files(&self) {
        for number in 0.. {
            match File::create(self.path.join(format!("{FILLER}-{number}"))) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("filling {}: {error}", self.path.display()),
            }
        }
    }

    /// Gives back what the filling took.
    #[track_caller]
    pub fn make_room(&self) {
        for entry in fs::read_dir(&self.path).expect("the disk") {
            let entry = entry.expect("an entry");
            if entry.file_name().to_string_lossy().starts_with(FILLER) {
                fs::remove_file(entry.path()).expect("a filler");
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("unmount {}: {error}", self.path.display());
        }
    }
}
