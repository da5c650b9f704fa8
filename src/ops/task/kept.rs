//! Which ended tasks keep their containers until the host knows of their end, so that a node whose
//! state directory is lost can still report them (design law 2). A plain value; `finish` asks it.

use std::collections::BTreeSet;

use crate::limits::ENDED_KEPT_MAX;
use crate::model::ids::TaskId;
use crate::model::time::Stamp;

/// The newest of them, by when their end was recorded.
#[derive(Debug, Default)]
pub struct Kept {
    tasks: BTreeSet<(Option<Stamp>, TaskId)>,
}

/// What becomes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// It stays; the one that fell out, if any, is to go.
    Stays {
        fallen: Option<TaskId>,
    },
    Goes,
}

impl Kept {
    /// Asks for a task's container to be kept. Once fallen out a task is not taken in again while
    /// the newer ones are here, so that two can't drive each other out for ever.
    pub fn ask(&mut self, recorded: Option<Stamp>, id: TaskId) -> Keeping {
        self.tasks.insert((recorded, id));
        if self.tasks.len() <= ENDED_KEPT_MAX {
            return Keeping::Stays { fallen: None };
        }
        match self.tasks.pop_first() {
            Some((_, oldest)) if oldest == id => Keeping::Goes,
            oldest => Keeping::Stays { fallen: oldest.map(|(_, oldest)| oldest) },
        }
    }

    /// The task's container is gone, or is to go.
    pub fn forget(&mut self, recorded: Option<Stamp>, id: TaskId) {
        self.tasks.remove(&(recorded, id));
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn task(number: u64) -> (Option<Stamp>, TaskId) {
        let seconds = i64::try_from(number).unwrap();
        (Some(Stamp::from_seconds(seconds)), TaskId::try_from(number).unwrap())
    }

    fn full() -> Kept {
        let mut kept = Kept::default();
        for number in 2..2 + ENDED_KEPT_MAX as u64 {
            let (recorded, id) = task(number);
            assert_eq!(kept.ask(recorded, id), Keeping::Stays { fallen: None });
        }
        kept
    }

    #[test]
    fn newest_drives_out_the_oldest() {
        let mut kept = full();
        let (recorded, newest) = task(1000);
        assert_eq!(kept.ask(recorded, newest), Keeping::Stays { fallen: Some(task(2).1) });
    }

    #[test]
    fn one_older_than_all_goes_and_drives_nobody_out() {
        let mut kept = full();
        let (recorded, oldest) = task(1);
        assert_eq!(kept.ask(recorded, oldest), Keeping::Goes);
        assert_eq!(kept.ask(recorded, oldest), Keeping::Goes);
    }

    #[test]
    fn one_that_asks_again_takes_no_second_place() {
        let mut kept = full();
        let (recorded, id) = task(3);
        assert_eq!(kept.ask(recorded, id), Keeping::Stays { fallen: None });
    }

    #[test]
    fn place_of_one_that_is_told_is_free() {
        let mut kept = full();
        let (recorded, told) = task(3);
        kept.forget(recorded, told);
        let (recorded, newest) = task(1000);
        assert_eq!(kept.ask(recorded, newest), Keeping::Stays { fallen: None });
    }
}
