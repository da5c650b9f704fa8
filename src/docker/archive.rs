//! Single files out of a container, started or not, by the Engine's archive call: a tar stream
//! with the file as its first entry. Called by `ops` for `/etc/passwd` and where `/proc` can't be
//! used. Reads only, and never more than asked for.

use std::io::{self, Read};

use super::ask::Ask;
use super::call::Reply;
use super::names::{checked_name, escaped};
use super::{DockerError, Engine};
use crate::limits::{ENGINE_ARCHIVE_EXTENSION_BYTES_MAX, ENGINE_ARCHIVE_EXTENSIONS_MAX};
use crate::wire::docker::PathStat;

const CALL: &str = "read a file of container";

impl Engine {
    /// What lies at `path` in the container; a link is not followed. `None`: nothing.
    ///
    /// # Errors
    /// As every call's. A missing container and a missing path look alike: `None`.
    pub fn stat_container_path(
        &self,
        name: &str,
        path: &str,
    ) -> Result<Option<PathStat>, DockerError> {
        let Some(reply) = self.archive(Ask::head, name, path)? else { return Ok(None) };
        let stat = path_stat(&reply)?;
        reply.done();
        Ok(Some(stat))
    }

    /// The regular file at `path` in the container; a link is followed inside the container.
    /// `None`: there is no such file, or it is no regular file.
    ///
    /// # Errors
    /// [`DockerError::TooLarge`]: the file has more than `bytes_max`.
    pub fn read_container_file(
        &self,
        name: &str,
        path: &str,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, DockerError> {
        let Some(stat) = self.stat_container_path(name, path)? else { return Ok(None) };
        // The Engine has resolved the link to its end, within the container's root.
        let path = if stat.is_link() { stat.link_target.as_str() } else { path };
        let Some(mut reply) = self.archive(Ask::get, name, path)? else { return Ok(None) };
        let stat = path_stat(&reply)?;
        if !stat.is_regular_file() {
            return Ok(None);
        }
        let first = first_file(&mut reply.reader(), bytes_max);
        match first {
            Ok(bytes) => {
                reply.done();
                Ok(Some(bytes))
            }
            Err(TarError::TooLarge) => Err(DockerError::TooLarge { call: CALL, bytes_max }),
            Err(TarError::NotATar) => {
                Err(DockerError::Garbage { call: CALL, source: TarError::NotATar.into() })
            }
            Err(TarError::Read(error)) => Err(reply.fault(error)),
        }
    }

    fn archive(
        &self,
        ask: fn(&'static str, String) -> Ask,
        name: &str,
        path: &str,
    ) -> Result<Option<Reply>, DockerError> {
        let name = checked_name(CALL, name)?;
        let target = format!("/containers/{name}/archive?path={}", escaped(path));
        match self.ask(&ask(CALL, target)) {
            Ok(reply) => Ok(Some(reply)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn path_stat(reply: &Reply) -> Result<PathStat, DockerError> {
    reply
        .header("X-Docker-Container-Path-Stat")
        .and_then(decode_base64)
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| DockerError::Garbage { call: CALL, source: TarError::NotATar.into() })
}

/// Standard alphabet, with or without padding. `None`: it is not that.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut bits_held) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        bits_held += 6;
        if bits_held >= 8 {
            bits_held -= 8;
            out.push((bits >> bits_held) as u8);
        }
    }
    Some(out)
}

#[derive(Debug)]
enum TarError {
    NotATar,
    TooLarge,
    Read(io::Error),
}

const BLOCK_BYTES: usize = 512;

/// The content of the first entry that is a regular file, where nothing but extended heads may
/// come before it.
fn first_file(tar: &mut dyn Read, bytes_max: usize) -> Result<Vec<u8>, TarError> {
    for _ in 0..ENGINE_ARCHIVE_EXTENSIONS_MAX {
        let mut head = [0; BLOCK_BYTES];
        tar.read_exact(&mut head).map_err(TarError::Read)?;
        if &head[257..262] != b"ustar" {
            return Err(TarError::NotATar);
        }
        let size = entry_bytes(&head[124..136]).ok_or(TarError::NotATar)?;
        match head[156] {
            b'0' | 0 => {
                let size = usize::try_from(size).ok().filter(|size| *size <= bytes_max);
                let size = size.ok_or(TarError::TooLarge)?;
                let mut content = vec![0; size];
                tar.read_exact(&mut content).map_err(TarError::Read)?;
                return Ok(content);
            }
            // pax and GNU extended heads: their content says nothing we need.
            b'x' | b'g' | b'L' | b'K' if size <= ENGINE_ARCHIVE_EXTENSION_BYTES_MAX => {
                let padded = size.next_multiple_of(BLOCK_BYTES as u64);
                io::copy(&mut tar.take(padded), &mut io::sink()).map_err(TarError::Read)?;
            }
            _ => return Err(TarError::NotATar),
        }
    }
    Err(TarError::NotATar)
}

/// A tar's size field: octal text, or binary with the top bit set where that is too small.
fn entry_bytes(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let tail: [u8; 8] = field[field.len() - 8..].try_into().ok()?;
        return Some(u64::from_be_bytes(tail));
    }
    let text = str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(text, 8).ok()
}

impl std::fmt::Display for TarError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TarError::NotATar => f.write_str("not the tar archive of a file"),
            TarError::TooLarge => f.write_str("larger than asked for"),
            TarError::Read(_) => f.write_str("read failed"),
        }
    }
}

impl std::error::Error for TarError {}

#[cfg(test)]
mod test {
    use super::*;

    fn entry(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_BYTES];
        bytes[..4].copy_from_slice(b"name");
        bytes[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        bytes[156] = kind;
        bytes[257..262].copy_from_slice(b"ustar");
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        bytes
    }

    fn first(tar: &[u8], bytes_max: usize) -> Result<Vec<u8>, TarError> {
        first_file(&mut { tar }, bytes_max)
    }

    #[test]
    fn base64_of_every_length_decodes() {
        assert_eq!(decode_base64("eyJhIjoxfQ==").unwrap(), b"{\"a\":1}");
        assert_eq!(decode_base64("YWI=").unwrap(), b"ab");
        assert_eq!(decode_base64("YWJj").unwrap(), b"abc");
        assert_eq!(decode_base64("").unwrap(), b"");
        assert_eq!(decode_base64("a b"), None);
    }

    #[test]
    fn the_first_file_of_an_archive_is_its_content() {
        assert_eq!(first(&entry(b'0', b"root:x:0:0"), 10).unwrap(), b"root:x:0:0");
    }

    #[test]
    fn extended_heads_before_the_file_are_passed_over() {
        let tar = [entry(b'x', &[b'p'; 700]), entry(b'L', b"long"), entry(b'0', b"x")].concat();
        assert_eq!(first(&tar, 10).unwrap(), b"x");
    }

    #[test]
    fn a_file_one_byte_too_long_is_too_large_and_not_read() {
        assert!(matches!(first(&entry(b'0', b"12345"), 4), Err(TarError::TooLarge)));
    }

    #[test]
    fn a_directory_or_noise_is_no_file() {
        assert!(matches!(first(&entry(b'5', b""), 4), Err(TarError::NotATar)));
        assert!(matches!(first(&[7; BLOCK_BYTES], 4), Err(TarError::NotATar)));
    }

    #[test]
    fn endless_extended_heads_end() {
        let tar = entry(b'x', b"").repeat(1000);
        assert!(matches!(first(&tar, 4), Err(TarError::NotATar)));
    }

    #[test]
    fn a_size_in_binary_is_read_as_one() {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[11] = 9;
        assert_eq!(entry_bytes(&field), Some(9));
        assert_eq!(entry_bytes(b"00000000011\0"), Some(9));
        assert_eq!(entry_bytes(b"not a number"), None);
    }
}
