//! Sets of CPU (or NUMA node) numbers and their kernel spelling, `0-3,8,10-11`: what sysfs writes
//! and what the Engine's `CpusetCpus` takes.

use std::fmt;
use std::str::FromStr;

use crate::limits::CPUS_MAX;

/// A set of numbers, ascending and without repeats. Display writes the shortest list of ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

/// The text is not a list of numbers below [`CPUS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACpuList;

impl CpuList {
    /// The numbers, ascending.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers that both lists hold.
    pub fn intersection(&self, other: &CpuList) -> CpuList {
        self.0.iter().copied().filter(|cpu| other.0.binary_search(cpu).is_ok()).collect()
    }
}

impl FromIterator<usize> for CpuList {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> CpuList {
        let mut numbers: Vec<usize> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        CpuList(numbers)
    }
}

impl FromStr for CpuList {
    type Err = NotACpuList;

    /// Blanks around the text (sysfs ends it with a newline) are ignored; an empty text is the
    /// empty set. The bound comes before the range is walked, so a hostile text costs nothing.
    fn from_str(text: &str) -> Result<CpuList, NotACpuList> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(CpuList::default());
        }
        let mut present = vec![false; CPUS_MAX];
        for item in text.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(NotACpuList);
            }
            present[first..=last].fill(true);
        }
        Ok(CpuList((0..CPUS_MAX).filter(|&cpu| present[cpu]).collect()))
    }
}

fn number(text: &str) -> Result<usize, NotACpuList> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NotACpuList);
    }
    text.parse().ok().filter(|&cpu| cpu < CPUS_MAX).ok_or(NotACpuList)
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, run) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            match run {
                [first, .., last] => write!(f, "{first}-{last}")?,
                [only] => write!(f, "{only}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

impl fmt::Display for NotACpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a CPU list is ranges of numbers below {CPUS_MAX}, as in 0-3,8")
    }
}

impl std::error::Error for NotACpuList {}

#[cfg(test)]
mod test {
    use super::*;

    fn read(text: &str) -> Result<CpuList, NotACpuList> {
        text.parse()
    }

    #[test]
    fn ranges_and_singles_read_as_their_numbers() {
        assert_eq!(read("0-3,8,10-11\n").unwrap().as_slice(), [0, 1, 2, 3, 8, 10, 11]);
    }

    #[test]
    fn list_written_out_reads_back_as_itself() {
        assert_eq!(read("0-3,8,10-11").unwrap().to_string(), "0-3,8,10-11");
    }

    #[test]
    fn overlaps_and_disorder_are_written_as_the_shortest_list() {
        assert_eq!(read("9,4-6,5-8,0").unwrap().to_string(), "0,4-9");
    }

    #[test]
    fn two_neighbours_are_written_as_a_range() {
        assert_eq!(CpuList::from_iter([1, 0]).to_string(), "0-1");
    }

    #[test]
    fn empty_text_is_the_empty_list() {
        assert_eq!(read("\n").unwrap().to_string(), "");
    }

    #[test]
    fn numbers_are_taken_below_the_bound_only() {
        assert_eq!(read("8191").unwrap().len(), 1);
        assert_eq!(read("8192"), Err(NotACpuList));
        assert_eq!(read("0-99999999999999999999"), Err(NotACpuList));
    }

    #[test]
    fn texts_that_are_no_list_are_refused() {
        for text in ["a", "1-", "-1", "3-1", "1,,2", ",", "+1", "1 2", "0-3:1/2", "1-2-3"] {
            assert_eq!(read(text), Err(NotACpuList), "{text}");
        }
    }

    #[test]
    fn intersection_keeps_what_both_hold() {
        let both = read("0-3,8").unwrap().intersection(&read("2-8").unwrap());
        assert_eq!(both.to_string(), "2-3,8");
    }
}
