//! Names of tasks and of the containers made for them (contract rule 20, section 5.1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A task's id: the host's snowflake, positive and below 2^63 (contract, "How to read").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct TaskId(u64);

/// The number or text is not a task id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATaskId;

impl TaskId {
    /// The id as the number it is on the wire.
    pub fn get(self) -> u64 {
        self.0
    }

    /// From a number as JSON has it, which may also be negative.
    ///
    /// # Errors
    /// It is not from 1 to 2^63-1.
    pub fn from_wire(raw: i64) -> Result<TaskId, NotATaskId> {
        TaskId::try_from(u64::try_from(raw).map_err(|_| NotATaskId)?)
    }

    /// `kohakuriver-task-{id}`, the container of a command task.
    pub fn task_container(self) -> String {
        format!("{TASK_CONTAINER_PREFIX}{self}")
    }

    /// `kohakuriver-vps-{id}`, the container of a VPS.
    pub fn vps_container(self) -> String {
        format!("{VPS_CONTAINER_PREFIX}{self}")
    }

    /// The id in the name of a container of either kind.
    pub fn from_container(name: &str) -> Option<TaskId> {
        let bare = name.strip_prefix('/').unwrap_or(name);
        let vps = bare.strip_prefix(VPS_CONTAINER_PREFIX).and_then(|id| id.parse().ok());
        vps.or_else(|| TaskId::from_task_container(name))
    }

    /// The id in a command task's container name, with or without the Engine's leading slash.
    pub fn from_task_container(name: &str) -> Option<TaskId> {
        let name = name.strip_prefix('/').unwrap_or(name);
        name.strip_prefix(TASK_CONTAINER_PREFIX)?.parse().ok()
    }
}

const VPS_CONTAINER_PREFIX: &str = "kohakuriver-vps-";
const TASK_CONTAINER_PREFIX: &str = "kohakuriver-task-";

impl TryFrom<u64> for TaskId {
    type Error = NotATaskId;

    fn try_from(raw: u64) -> Result<TaskId, NotATaskId> {
        if raw == 0 || raw > i64::MAX as u64 { Err(NotATaskId) } else { Ok(TaskId(raw)) }
    }
}

impl From<TaskId> for u64 {
    fn from(id: TaskId) -> u64 {
        id.0
    }
}

impl FromStr for TaskId {
    type Err = NotATaskId;

    /// Digits only: no sign, no blanks, no leading zero, so that a name has one spelling.
    fn from_str(text: &str) -> Result<TaskId, NotATaskId> {
        if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotATaskId);
        }
        TaskId::try_from(text.parse::<u64>().map_err(|_| NotATaskId)?)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NotATaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a task id is a whole number from 1 to 2^63-1")
    }
}

impl std::error::Error for NotATaskId {}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn container_name_of_a_task_reads_back_as_its_id() {
        let id: TaskId = "7531103436712968193".parse().unwrap();
        assert_eq!(TaskId::from_task_container(&format!("/{}", id.task_container())), Some(id));
    }

    #[test]
    fn ids_outside_1_to_2_pow_63_are_refused() {
        assert!(TaskId::try_from(0).is_err());
        assert!(TaskId::try_from(1 << 63).is_err());
        assert!(TaskId::try_from((1 << 63) - 1).is_ok());
        assert!(TaskId::from_wire(-1).is_err());
        assert!(TaskId::from_wire(i64::MAX).is_ok());
    }

    #[test]
    fn a_name_with_a_sign_a_blank_or_a_leading_zero_is_no_id() {
        assert!("+1".parse::<TaskId>().is_err());
        assert!(" 1".parse::<TaskId>().is_err());
        assert!("01".parse::<TaskId>().is_err());
        assert!("".parse::<TaskId>().is_err());
    }
}
