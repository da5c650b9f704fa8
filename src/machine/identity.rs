//! Whose rights a thread has at files: a container user's for the time of one operation, so that it
//! is the kernel that refuses and that names the owner of what is made (design D7). A thread's only:
//! the C library's calls change all threads, the kernel's own do not.

use std::io;

use super::kernel_text;
use super::process::Process;

/// A user as this machine counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// The thread has another's rights until this goes. Not to be sent to another thread.
#[derive(Debug)]
#[must_use = "dropping it gives the thread its own rights back"]
pub struct Assumed {
    own: Identity,
    _thread_bound: std::marker::PhantomData<*const ()>,
}

impl Identity {
    /// Gives this thread the user's rights at files. Of any user but root the kernel takes those
    /// capabilities that overrule permissions.
    ///
    /// # Errors
    /// The kernel refused: the runner is not root. Nothing is changed then.
    pub fn assume(&self) -> io::Result<Assumed> {
        let own = Identity { uid: fs_uid(), gid: fs_gid(), groups: groups()? };
        // From here on a return of any kind gives the thread its own back.
        let assumed = Assumed { own, _thread_bound: std::marker::PhantomData };
        set_groups(&self.groups)?;
        set_fs_gid(self.gid)?;
        set_fs_uid(self.uid)?;
        Ok(assumed)
    }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        let own = &self.own;
        let restored = set_fs_uid(own.uid)
            .and_then(|()| set_fs_gid(own.gid))
            .and_then(|()| set_groups(&own.groups));
        if let Err(error) = restored {
            // The thread would go on with rights that are not its own: nobody must use it.
            log::error!("a thread can't get its own rights back: {error}");
            std::process::abort();
        }
    }
}

/// How a user namespace counts users or groups: ranges of (inside, outside, how many).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap(Vec<(u32, u32, u32)>);

impl IdMap {
    /// Of the process's users.
    ///
    /// # Errors
    /// The process has ended.
    pub fn of_users(process: &Process) -> io::Result<IdMap> {
        IdMap::read(process, "uid_map")
    }

    /// Of its groups.
    ///
    /// # Errors
    /// The process has ended.
    pub fn of_groups(process: &Process) -> io::Result<IdMap> {
        IdMap::read(process, "gid_map")
    }

    fn read(process: &Process, name: &str) -> io::Result<IdMap> {
        let text = kernel_text(format!("/proc/{}/{name}", process.pid()).as_ref())?;
        Ok(IdMap::parse(&text))
    }

    fn parse(text: &str) -> IdMap {
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
            Some((numbers.next()??, numbers.next()??, numbers.next()??))
        };
        IdMap(text.lines().filter_map(range).collect())
    }

    /// The number outside; `None` for one that the namespace does not have.
    pub fn outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|&(first, outside, count)| {
            let distance = inside.checked_sub(first).filter(|distance| *distance < count)?;
            outside.checked_add(distance)
        })
    }

    /// The number inside; `None` for one that the namespace does not have.
    pub fn inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|&(first, start, count)| {
            let distance = outside.checked_sub(start).filter(|distance| *distance < count)?;
            first.checked_add(distance)
        })
    }
}

/// No user has this number: asked for it, the kernel changes nothing and tells the present one.
const NOBODY: u32 = u32::MAX;

fn fs_uid() -> u32 {
    // SAFETY: the call takes an integer; this one is refused without effect.
    let uid = unsafe { libc::syscall(libc::SYS_setfsuid, NOBODY) };
    u32::try_from(uid).unwrap_or(NOBODY)
}

fn fs_gid() -> u32 {
    // SAFETY: the call takes an integer; this one is refused without effect.
    let gid = unsafe { libc::syscall(libc::SYS_setfsgid, NOBODY) };
    u32::try_from(gid).unwrap_or(NOBODY)
}

fn set_fs_uid(uid: u32) -> io::Result<()> {
    // SAFETY: the call takes an integer and acts on this thread.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    if fs_uid() == uid { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn set_fs_gid(gid: u32) -> io::Result<()> {
    // SAFETY: the call takes an integer and acts on this thread.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    if fs_gid() == gid { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn groups() -> io::Result<Vec<u32>> {
    let none = std::ptr::null_mut::<u32>();
    // SAFETY: with no room it only counts.
    let count = unsafe { libc::syscall(libc::SYS_getgroups, 0, none) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let mut groups = vec![0_u32; count];
    // SAFETY: there is room for as many as are passed; a thread's groups change by itself only.
    let read = unsafe { libc::syscall(libc::SYS_getgroups, groups.len(), groups.as_mut_ptr()) };
    if read < 0 { Err(io::Error::last_os_error()) } else { Ok(groups) }
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length are of one slice; the bare call acts on this thread.
    let set = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::machine::root::by_descriptor;

    #[test]
    fn files_are_made_and_refused_as_the_assumed_user_and_only_so_long() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        // What is above it may be closed to the user.
        let held = fs::File::open(directory.path()).unwrap();
        let directory = by_descriptor(held.as_fd());
        let secret = directory.join("secret");
        fs::write(&secret, "s").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();

        let user = Identity { uid: 4321, gid: 8765, groups: vec![99, 98] };
        let assumed = user.assume().unwrap();
        assert_eq!(fs::read(&secret).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let made = directory.join("made");
        fs::write(&made, "m").unwrap();
        assert_eq!(groups().unwrap(), [98, 99]);
        drop(assumed);

        assert_eq!(fs::read(&secret).unwrap(), b"s");
        let made = fs::metadata(made).unwrap();
        assert_eq!((made.uid(), made.gid()), (4321, 8765));
    }

    #[test]
    fn other_threads_keep_their_own_rights() {
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            asked.recv().unwrap();
            (fs_uid(), groups().unwrap())
        });
        let own = (fs_uid(), groups().unwrap());
        let _assumed = Identity { uid: 4321, gid: 8765, groups: vec![99] }.assume().unwrap();
        ask.send(()).unwrap();
        assert_eq!(other.join().unwrap(), own);
    }

    #[test]
    fn numbers_are_mapped_both_ways_within_their_ranges() {
        let map =
            IdMap::parse("         0     100000      65536\n     65536          7          1\n");
        assert_eq!((map.outside(0), map.outside(1000)), (Some(100_000), Some(101_000)));
        assert_eq!((map.outside(65_536), map.outside(65_537)), (Some(7), None));
        assert_eq!((map.inside(7), map.inside(99_999)), (Some(65_536), None));
    }
}
