//! What must hold for any bytes at the head parser. Shared by the fuzz target and by the seeded
//! loop of `tests/it/fuzz_head.rs`.

use river_runner::serve::head::{Framing, Scan, parse, scan};

/// Panics if `bytes` break a promise of the parser.
pub fn head_holds(bytes: &[u8]) {
    let whole = scan(bytes, 0);
    for split in [1, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let split = split.min(bytes.len());
        let in_parts = match scan(&bytes[..split], 0) {
            Ok(Scan::Partial) => scan(bytes, split),
            ended => ended,
        };
        assert_eq!(in_parts, whole, "split at {split}");
    }

    let Ok(Scan::Whole { bytes: end }) = whole else { return };
    let text = &bytes[..end];
    assert!(text.ends_with(b"\r\n\r\n"));
    assert!(!text.contains(&0));
    let Ok(head) = parse(text) else { return };
    assert_eq!(head.bytes, end);
    assert!(head.path.text(text).starts_with('/'));
    assert!(head.path.text(text).bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?'));
    assert!(head.old_version || head.field(text, "host").is_some());

    // What another reader could take for framing is what this one took.
    let says = |name: &str| count(text, name);
    assert!(says("content-length") <= 1 && says("host") <= 1);
    match head.framing {
        Framing::Chunked => {
            assert!(!head.old_version);
            assert_eq!((says("transfer-encoding"), says("content-length")), (1, 0));
        }
        Framing::Length(length) => {
            assert_eq!(says("transfer-encoding"), 0);
            let said = head.field(text, "content-length").unwrap_or("0");
            assert!(said.bytes().all(|byte| byte.is_ascii_digit()));
            assert_eq!(length, said.parse().unwrap_or(u64::MAX));
        }
    }
}

/// Lines that begin with `name` and a colon, found without the parser.
fn count(head: &[u8], name: &str) -> usize {
    head.split(|byte| *byte == b'\n')
        .filter(|line| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
                && line.get(name.len()) == Some(&b':')
        })
        .count()
}
