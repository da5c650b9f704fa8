//! The runner's death at a chosen call on its state directory, whichever thread makes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Counts the calls of one runner. Give [`StateCalls::environment`] to it before it is made, and
/// [`StateCalls::strike_at`] once its directory is known and before its first life.
pub struct StateCalls {
    dir: tempfile::TempDir,
}

impl StateCalls {
    pub fn new() -> StateCalls {
        let dir = tempfile::Builder::new().prefix("calls-").tempdir().expect("a directory");
        StateCalls { dir }
    }

    pub fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: PathBuf| path.to_str().expect("a plain path").to_owned();
        [("LD_PRELOAD", text(library().to_owned())), ("STATE_CALLS", text(self.control()))]
    }

    /// SIGKILL as the runner enters its `nth` call on what lies in `directory`. Once.
    pub fn strike_at(&self, nth: u64, directory: &Path) {
        let directory = directory.to_str().expect("a plain path");
        fs::write(self.control(), format!("{nth}\n{directory}/\n")).expect("a file");
    }

    pub fn has_struck(&self) -> bool {
        !self.control().exists()
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("at")
    }
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kit/state_calls.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state_calls.so");
        // Another test process may be about to load it: it is there whole or not at all.
        let fresh = library.with_extension(format!("{}.so", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&fresh).arg(source).arg("-ldl");
        let output = cc.output().expect("cc");
        assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&fresh, &library).expect("the library");
        library
    })
}
