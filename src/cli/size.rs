//! Sizes as people write them: `512M`, `2GiB`, `8000000000`.

/// What `parse` reads, for help and errors.
pub const FORM: &str = "a number of bytes, or with K, M, G, T (or KiB, MiB, …; powers of 1024) or \
                        KB, MB, GB, TB (powers of 1000)";

/// Bytes that `text` means; `None` when it is no size, or more than 2^63 - 1.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let (base, power): (u64, u32) = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => (1, 0),
        "k" | "ki" | "kib" => (1024, 1),
        "m" | "mi" | "mib" => (1024, 2),
        "g" | "gi" | "gib" => (1024, 3),
        "t" | "ti" | "tib" => (1024, 4),
        "kb" => (1000, 1),
        "mb" => (1000, 2),
        "gb" => (1000, 3),
        "tb" => (1000, 4),
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(base.pow(power))?;
    i64::try_from(bytes).is_ok().then_some(bytes)
}

/// A size for people, in powers of 1024.
pub fn shown(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, power)| bytes >> power > 0) {
        Some((unit, power)) => format!("{:.1} {unit}", bytes as f64 / f64::from(1 << power)),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(1024), "1.0 KiB");
        assert_eq!(shown(1_980_000), "1.9 MiB");
        assert_eq!(shown(5 << 40), "5120.0 GiB");
    }

    #[test]
    fn letters_are_powers_of_1024() {
        assert_eq!(parse("512M"), Some(512 << 20));
        assert_eq!(parse("2GiB"), Some(2 << 30));
        assert_eq!(parse("1 g"), Some(1 << 30));
        assert_eq!(parse("4k"), Some(4096));
    }

    #[test]
    fn decimal_units_are_powers_of_1000() {
        assert_eq!(parse("2GB"), Some(2_000_000_000));
    }

    #[test]
    fn bare_number_is_bytes() {
        assert_eq!(parse("8000000000"), Some(8_000_000_000));
        assert_eq!(parse("0"), Some(0));
    }

    #[test]
    fn what_is_no_size_or_too_large_is_refused() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("M"), None);
        assert_eq!(parse("-1"), None);
        assert_eq!(parse("1.5G"), None);
        assert_eq!(parse("1X"), None);
        assert_eq!(parse("9223372036854775807"), Some(i64::MAX as u64));
        assert_eq!(parse("9223372036854775808"), None);
        assert_eq!(parse("99999999T"), None);
    }
}
