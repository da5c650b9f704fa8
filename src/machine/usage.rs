//! How busy the machine is: the figures of the heartbeat (contract 3.2). Each is `None` where the
//! kernel does not say, and none is ever NaN.

use std::path::Path;

use crate::machine::{kernel_text, numbered};

/// Measures the busy share of all CPUs between two samples.
#[derive(Debug, Default)]
pub struct CpuMeter {
    before: Option<CpuTimes>,
}

impl CpuMeter {
    /// Percent of all CPUs busy since the last sample, one decimal; 0.0 the first time.
    pub fn sample(&mut self) -> Option<f64> {
        let now = CpuTimes::read(&kernel_text(Path::new("/proc/stat")).ok()?)?;
        let before = self.before.replace(now);
        Some(before.map_or(0.0, |before| now.percent_since(before)))
    }
}

/// Clock ticks since the start, summed over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuTimes {
    total: u64,
    idle: u64,
}

impl CpuTimes {
    /// From the first line of `/proc/stat`: user nice system idle iowait irq softirq steal. The two
    /// guest figures after them are already inside user and nice.
    fn read(stat: &str) -> Option<CpuTimes> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let times: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map(|ticks| ticks.parse().ok())
            .collect::<Option<_>>()?;
        let idle = times.get(3)?.saturating_add(times.get(4).copied().unwrap_or(0));
        let total = times.iter().fold(0u64, |sum, &ticks| sum.saturating_add(ticks));
        Some(CpuTimes { total, idle })
    }

    /// Counters may step back a little (iowait does); that is no time at all.
    fn percent_since(self, before: CpuTimes) -> f64 {
        let total = self.total.saturating_sub(before.total);
        let idle = self.idle.saturating_sub(before.idle).min(total);
        if total == 0 { 0.0 } else { one_decimal((total - idle) as f64 * 100.0 / total as f64) }
    }
}

/// The machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Never zero.
    pub total_bytes: u64,
    /// What programs could still get without swapping, at most the total.
    pub available_bytes: u64,
}

impl Memory {
    /// Total less available.
    pub fn used_bytes(self) -> u64 {
        self.total_bytes - self.available_bytes
    }

    /// The used share, one decimal.
    pub fn used_percent(self) -> f64 {
        one_decimal(self.used_bytes() as f64 * 100.0 / self.total_bytes as f64)
    }

    fn read(meminfo: &str) -> Option<Memory> {
        let total_bytes = meminfo_bytes(meminfo, "MemTotal:").filter(|&bytes| bytes > 0)?;
        let available_bytes = meminfo_bytes(meminfo, "MemAvailable:")
            .or_else(|| meminfo_bytes(meminfo, "MemFree:"))?
            .min(total_bytes);
        Some(Memory { total_bytes, available_bytes })
    }
}

/// The memory as it is now.
pub fn memory() -> Option<Memory> {
    Memory::read(&kernel_text(Path::new("/proc/meminfo")).ok()?)
}

fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Degrees Celsius over the sensors of one chip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperatures {
    pub average: f64,
    pub highest: f64,
}

/// The temperatures of the last chip (by hwmon number) that has any. A sensor that can't be read,
/// as those of powered-down devices can't, is passed over.
pub fn temperatures(sysfs_root: &Path) -> Option<Temperatures> {
    let hwmon = sysfs_root.join("class/hwmon");
    numbered(&hwmon, "hwmon", "").into_iter().rev().find_map(|chip| {
        let chip = hwmon.join(format!("hwmon{chip}"));
        let degrees: Vec<f64> = numbered(&chip, "temp", "_input")
            .into_iter()
            .filter_map(|sensor| degrees(&chip.join(format!("temp{sensor}_input"))))
            .collect();
        let highest = degrees.iter().copied().reduce(f64::max)?;
        Some(Temperatures { average: degrees.iter().sum::<f64>() / degrees.len() as f64, highest })
    })
}

fn degrees(sensor: &Path) -> Option<f64> {
    let thousandths: i32 = kernel_text(sensor).ok()?.trim().parse().ok()?;
    Some(f64::from(thousandths) / 1000.0)
}

fn one_decimal(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

#[cfg(test)]
mod test {
    use std::fs;

    use super::*;

    fn percent(before: &str, now: &str) -> f64 {
        CpuTimes::read(now).unwrap().percent_since(CpuTimes::read(before).unwrap())
    }

    #[test]
    fn cpu_share_counts_idle_and_iowait_as_idle_and_guests_once() {
        let before = "cpu  100 0 0 100 0 0 0 0 50 0\n";
        let now = "cpu  130 10 5 140 10 2 1 2 90 0\ncpu0 1 2 3 4\n";
        assert_eq!(percent(before, now), 50.0);
    }

    #[test]
    fn cpu_share_has_one_decimal() {
        assert_eq!(percent("cpu  0 0 0 0\n", "cpu  1 0 0 2\n"), 33.3);
    }

    #[test]
    fn cpu_share_of_no_time_or_of_counters_that_fell_is_zero() {
        assert_eq!(percent("cpu  5 5 5 5 5\n", "cpu  5 5 5 5 5\n"), 0.0);
        assert_eq!(percent("cpu  9 9 9 9 9\n", "cpu  5 5 5 5 5\n"), 0.0);
        assert_eq!(percent("cpu  0 0 0 5 9\n", "cpu  2 0 0 9 5\n"), 100.0);
    }

    #[test]
    fn stat_without_numbers_is_no_sample() {
        assert_eq!(CpuTimes::read(""), None);
        assert_eq!(CpuTimes::read("cpu  1 2 x 4\n"), None);
        assert_eq!(CpuTimes::read("cpu  1 2 3\n"), None);
    }

    #[test]
    fn first_sample_of_this_machine_is_zero_and_the_next_a_percentage() {
        let mut meter = CpuMeter::default();
        assert_eq!(meter.sample(), Some(0.0));
        assert!((0.0..=100.0).contains(&meter.sample().unwrap()));
    }

    #[test]
    fn memory_used_is_total_less_available() {
        let memory = Memory::read("MemTotal: 3000 kB\nMemFree: 5 kB\nMemAvailable: 1000 kB\n");
        let memory = memory.unwrap();
        assert_eq!(memory.used_bytes(), 2000 * 1024);
        assert_eq!(memory.used_percent(), 66.7);
    }

    #[test]
    fn memory_of_an_old_kernel_counts_what_is_free() {
        let memory = Memory::read("MemTotal: 3000 kB\nMemFree: 1500 kB\n").unwrap();
        assert_eq!(memory.used_percent(), 50.0);
    }

    #[test]
    fn memory_without_a_total_is_none() {
        assert_eq!(Memory::read(""), None);
        assert_eq!(Memory::read("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        assert_eq!(Memory::read("MemTotal: 99999999999999999999 kB\n"), None);
    }

    #[test]
    fn memory_of_this_machine_is_more_than_nothing() {
        assert!((0.0..=100.0).contains(&memory().unwrap().used_percent()));
    }

    fn sysfs(sensors: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in sensors {
            let path = root.path().join("class/hwmon").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn temperatures_are_those_of_the_last_chip_that_has_any() {
        let root = sysfs(&[
            ("hwmon2/temp1_input", "90000\n"),
            ("hwmon10/temp1_input", "40000\n"),
            ("hwmon10/temp2_input", "50500\n"),
            ("hwmon10/temp2_max", "99000\n"),
            ("hwmon11/fan1_input", "1200\n"),
        ]);
        let expected = Temperatures { average: 45.25, highest: 50.5 };
        assert_eq!(temperatures(root.path()), Some(expected));
    }

    #[test]
    fn sensor_that_says_nonsense_is_passed_over() {
        let root = sysfs(&[("hwmon0/temp1_input", "-5000\n"), ("hwmon1/temp1_input", "NaN\n")]);
        let expected = Temperatures { average: -5.0, highest: -5.0 };
        assert_eq!(temperatures(root.path()), Some(expected));
    }

    #[test]
    fn machine_without_sensors_has_no_temperatures() {
        assert_eq!(temperatures(tempfile::tempdir().unwrap().path()), None);
    }
}
