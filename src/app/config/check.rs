//! What a setting's type does not say about its value: ranges, and the forms of names. Named by the
//! rows of `table`; pure.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use super::value::{Allowed, Value, is_plain_path};

pub fn anything(_: &Value) -> Result<(), Allowed> {
    Ok(())
}

pub fn within(value: &Value, range: RangeInclusive<u64>) -> Result<(), Allowed> {
    let number = value.number().and_then(|number| u64::try_from(number).ok());
    match number {
        Some(number) if range.contains(&number) => Ok(()),
        Some(_) | None => Err(Allowed::Number { least: *range.start(), most: *range.end() }),
    }
}

pub fn host_name(value: &Value) -> Result<(), Allowed> {
    let fits = value.text().is_some_and(|text| text.is_empty() || is_host_name(text));
    if fits {
        Ok(())
    } else {
        Err(Allowed::Form("a host name or IP address, without http:// and port"))
    }
}

pub fn host_names(value: &Value) -> Result<(), Allowed> {
    let names = value.entries();
    let fits = names.is_some_and(|names| names.into_iter().all(is_host_name));
    if fits { Ok(()) } else { Err(Allowed::Form("a list of host names without ports")) }
}

fn is_host_name(text: &str) -> bool {
    let letters = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.len() <= 253 && letters(text))
}

/// Names that become Docker names and label values, and words in logs.
pub fn name(value: &Value) -> Result<(), Allowed> {
    let fits = value.text().is_some_and(|text| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
    });
    if fits {
        Ok(())
    } else {
        Err(Allowed::Form("1 to 128 letters, digits, dots, dashes, colons and underscores"))
    }
}

/// The kernel's rule for network interfaces: 15 bytes, no slash, no blank.
pub fn interface_name(value: &Value) -> Result<(), Allowed> {
    let fits = value.text().is_some_and(|text| {
        (1..=15).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte))
    });
    if fits { Ok(()) } else { Err(Allowed::Form("an interface name of 1 to 15 characters")) }
}

pub fn disk_size(value: &Value) -> Result<(), Allowed> {
    let fits = value.text().is_some_and(|text| {
        let digits = text.trim_end_matches(['k', 'K', 'M', 'G', 'T', 'P', 'E']);
        text.len() - digits.len() <= 1
            && digits.len() <= 18
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && digits.bytes().any(|byte| byte != b'0')
    });
    if fits { Ok(()) } else { Err(Allowed::Form("a size such as 50G (K, M, G, T)")) }
}

pub fn mounts(value: &Value) -> Result<(), Allowed> {
    let fits = |mount: &str| {
        let mut parts = mount.split(':');
        let mut is_path = || parts.next().is_some_and(|part| is_plain_path(Path::new(part)));
        is_path() && is_path()
    };
    let mounts = value.entries();
    if mounts.is_some_and(|mounts| mounts.into_iter().all(fits)) {
        Ok(())
    } else {
        Err(Allowed::Form("a list of \"/on/the/host:/in/the/container[:ro]\""))
    }
}

/// `sun_path` holds 108 bytes with its end; a longer path can't be bound.
pub fn socket_path(value: &Value) -> Result<(), Allowed> {
    let fits = value.text().is_some_and(|text| text.len() <= 107);
    if fits { Ok(()) } else { Err(Allowed::Form("an absolute path of at most 107 bytes")) }
}

#[cfg(test)]
mod test {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn host_address_that_is_a_url_or_has_a_port_is_refused() {
        assert!(host_name(&text("http://10.0.0.1")).is_err());
        assert!(host_name(&text("10.0.0.1:8000")).is_err());
        assert!(host_name(&text("10.0.0.1")).is_ok());
        assert!(host_name(&text("fd00::1")).is_ok());
        assert!(host_name(&text("host.example")).is_ok());
    }

    #[test]
    fn mount_without_two_absolute_paths_is_refused() {
        assert!(mounts(&text("/data")).is_err());
        assert!(mounts(&text("data:/data")).is_err());
        assert!(mounts(&text("/data:data")).is_err());
        assert!(mounts(&text("/data:/data:ro,/a:/b")).is_ok());
    }

    #[test]
    fn disk_size_is_digits_and_one_letter() {
        assert!(disk_size(&text("50G")).is_ok());
        assert!(disk_size(&text("50GG")).is_err());
        assert!(disk_size(&text("G")).is_err());
        assert!(disk_size(&text("0G")).is_err());
    }

    #[test]
    fn socket_path_longer_than_the_kernel_takes_is_refused() {
        assert!(socket_path(&text(&"/".repeat(107))).is_ok());
        assert!(socket_path(&text(&"/".repeat(108))).is_err());
    }
}
