//! What a path lies on. A hung network filesystem holds these calls for as long as it hangs, so
//! paths under SHARED_DIR are asked about on `files` or `patient` threads only (design law 5).

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::statfs::{Statfs, fstatfs, statfs};

/// Kinds of filesystems that matter to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On a disk of this machine, as far as we know.
    Local,
    /// In memory: gone after a reboot, and every byte is memory of the machine.
    Memory,
    /// Written by other machines too, without inotify events here. FUSE counts as such (sshfs,
    /// glusterfs): taking a local FUSE for shared costs some polling, the reverse loses changes.
    Network,
    /// The kernel's own state shown as files: nobody's data, and without inotify events.
    Kernel,
}

/// The filesystem a path lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filesystem {
    pub kind: Kind,
    /// What an ordinary user may still write; `None` where the file system does not tell, as those of
    /// FUSE need not.
    pub free_bytes: Option<u64>,
    /// Files that may still be made; `None` where the file system does not count them.
    pub free_files: Option<u64>,
}

/// The filesystem of `path`, which must exist.
///
/// # Errors
/// The path does not exist, or may not be searched.
pub fn filesystem(path: &Path) -> io::Result<Filesystem> {
    let found = statfs(path)?;
    let block_bytes = u64::try_from(found.block_size()).unwrap_or(0);
    let free_bytes = found.blocks_available().saturating_mul(block_bytes);
    let free_bytes = (found.blocks() > 0).then_some(free_bytes);
    let free_files = (found.files() > 0).then_some(found.files_free());
    Ok(Filesystem { kind: kind(magic(&found)), free_bytes, free_files })
}

/// On what kind an open file or directory lies.
///
/// # Errors
/// The file system fails.
pub fn kind_of(open: impl AsFd) -> io::Result<Kind> {
    Ok(kind(magic(&fstatfs(open)?)))
}

/// The field's width and sign differ between platforms; the magic is its low 32 bits everywhere.
fn magic(found: &Statfs) -> u32 {
    found.filesystem_type().0 as u32
}

/// By the magic numbers of `statfs(2)` and the kernel's `magic.h`.
fn kind(magic: u32) -> Kind {
    match magic {
        0x0102_1994 // tmpfs
        | 0x8584_58f6 // ramfs
        => Kind::Memory,
        0x0000_6969 // nfs
        | 0x0000_517b // smb
        | 0xff53_4d42 // cifs
        | 0xfe53_4d42 // smb2
        | 0x00c3_6400 // ceph
        | 0x6573_5546 // fuse
        | 0x0bd0_0bd0 // lustre
        | 0x4750_4653 // gpfs
        | 0x1983_0326 // beegfs
        | 0x0102_1997 // 9p
        | 0x5346_414f // afs, in openafs
        | 0x6b41_4653 // afs, in the kernel
        | 0x7375_7245 // coda
        | 0x0116_1970 // gfs2
        | 0x7461_636f // ocfs2
        | 0x2003_0528 // orangefs
        | 0xaad7_aaea // panfs
        => Kind::Network,
        0x0000_9fa0 // proc
        | 0x6265_6572 // sysfs
        | 0x0027_e0eb // cgroup
        | 0x6367_7270 // cgroup2
        | 0x0000_1cd1 // devpts
        | 0x1980_0202 // mqueue
        | 0x6462_6720 // debugfs
        | 0x7472_6163 // tracefs
        | 0x7363_6673 // securityfs
        | 0xcafe_4a11 // bpf
        | 0x6265_6570 // configfs
        | 0xf97c_ff8c // selinuxfs
        | 0x4249_4e4d // binfmt_misc
        | 0xde5e_81e4 // efivarfs
        | 0x6573_5543 // fusectl
        | 0x6e73_6673 // nsfs
        => Kind::Kernel,
        _ => Kind::Local,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn magic_numbers_tell_the_kind() {
        assert_eq!(kind(0x0102_1994), Kind::Memory);
        assert_eq!(kind(0x6969), Kind::Network);
        assert_eq!(kind(0xff53_4d42), Kind::Network);
        assert_eq!(kind(0xef53), Kind::Local);
    }

    #[test]
    fn directory_of_this_machine_has_free_bytes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(filesystem(dir.path()).unwrap().free_bytes > Some(0));
    }

    #[test]
    fn shared_memory_of_this_machine_is_memory() {
        assert_eq!(filesystem(Path::new("/dev/shm")).unwrap().kind, Kind::Memory);
    }

    #[test]
    fn path_that_does_not_exist_is_an_error() {
        let missing = filesystem(Path::new("/no/such/path")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
