//! Contract 1.1, 3.3, 3.4, 5.1 to 5.3 and 5.10 for command tasks, each row by name.

/// What the Engine is asked for.
mod container;
/// What the door takes, refuses and answers.
mod door;
/// Images of every kind, and their users.
mod images;
/// Exit codes, statuses and the messages that users read.
mod outcome;
/// What the host hears, and when.
mod reports;
/// The command, its arguments and its environment, exactly as written.
mod shell;

use crate::kit::{docker, image, remove_container, test_name};

/// A busybox image changed by one line of a Dockerfile. Removed with this value.
struct ChangedImage(String);

impl ChangedImage {
    fn with(line: &str) -> ChangedImage {
        let name = test_name("changed");
        let reference = format!("kohakuriver/{name}:base");
        docker(&["create", "--name", &name, &image("busybox"), "true"]);
        docker(&["commit", "--change", line, &name, &reference]);
        remove_container(&name);
        ChangedImage(reference)
    }
}

impl Drop for ChangedImage {
    fn drop(&mut self) {
        // Force: the container of a failed test may still be there.
        docker(&["image", "rm", "--force", &self.0]);
    }
}
