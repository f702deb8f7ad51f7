//! Which Go modules are compiled into nats-server: every Go program has the list of its own in it.
//!
//! Their licences' texts are in none of what nats-server's authors publish, so they are named.

use anyhow::{Context, Result, bail};
use std::fmt::Write as _;

/// What comes before the build information of a Go program (`debug/buildinfo` of Go).
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The length of that part's head.
const HEAD_BYTES: usize = 32;
/// Where the head has its flags, and the one that says that the texts follow it: so they do since Go 1.18.
const FLAGS_AT: usize = 15;
const INLINE: u8 = 2;
/// How many bytes mark the begin and the end of the list.
const MARK_BYTES: usize = 16;

/// The notice for a nats-server.
///
/// # Errors
/// When it is no program of a Go that lists its modules.
pub fn notice(program: &[u8]) -> Result<String> {
    let (go, modules) = modules(program)?;
    let mut notice =
        format!("nats-server contains the libraries of {go}, and these modules of other authors:\n\n");
    for (name, version) in modules {
        writeln!(notice, "{name} {version}")?;
    }
    notice += "\nThe licence of each is in a file LICENSE at the top of its source, which `go mod download -json NAME@VERSION` brings, \
               and that of Go in Go's own.\n";
    Ok(notice)
}

/// The version of Go, and the name and version of each module.
fn modules(program: &[u8]) -> Result<(String, Vec<(String, String)>)> {
    let starts = program.windows(MAGIC.len()).enumerate();
    let mut starts = starts.filter(|(_, bytes)| *bytes == MAGIC);
    let read = starts.find_map(|(at, _)| {
        let is_inline = program.get(at + FLAGS_AT)? & INLINE != 0;
        let rest = program.get(at + HEAD_BYTES..).filter(|_| is_inline)?;
        let (go, rest) = text(rest)?;
        let (list, _) = text(rest)?;
        let list = list.get(MARK_BYTES..list.len().checked_sub(MARK_BYTES)?)?;
        Some((
            String::from_utf8(go.to_vec()).ok()?,
            String::from_utf8(list.to_vec()).ok()?,
        ))
    });
    let (go, list) = read.context("nats-server has no list of its modules in it")?;
    let module = |line: &str| {
        let (name, version) = line.strip_prefix("dep\t")?.split_once('\t')?;
        let version = version.split('\t').next()?;
        Some((name.to_owned(), version.to_owned()))
    };
    let modules: Vec<_> = list.lines().filter_map(module).collect();
    if modules.is_empty() {
        bail!("nats-server's list of its modules is empty");
    }
    Ok((go, modules))
}

/// A text after its length, and what follows it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut at) = (0, 0);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).ok()?)?;
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    bytes.get(at..)?.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(list: &str) -> Vec<u8> {
        let mark = "=".repeat(MARK_BYTES);
        let list = format!("{mark}{list}{mark}");
        let head = [MAGIC, &[8, INLINE], &[0; 16]].concat();
        let length = u8::try_from(list.len() - 128).expect("a second byte of 1");
        let lists = [&head[..], b"\x06go1.27", &[length | 0x80, 1], list.as_bytes()].concat();
        // The first is only a constant of the program.
        [b"\x7fELF", MAGIC, &[0; 40], &lists, b"more"].concat()
    }

    #[test]
    fn the_modules_of_a_program_are_named_with_their_versions() {
        let list = "path\texample.org/server\nmod\texample.org/server\tv2.0.0\t\ndep\texample.org/one\tv1.2.3\th1:abc=\n\
                    dep\texample.org/two/v2\tv2.0.0\nbuild\t-compiler=gc\n";
        let notice = notice(&program(list)).expect("a list");
        let names: Vec<_> = notice.lines().skip(2).take(3).collect();
        assert_eq!(names, ["example.org/one v1.2.3", "example.org/two/v2 v2.0.0", ""]);
        assert!(
            notice.starts_with("nats-server contains the libraries of go1.27,"),
            "{notice}"
        );
    }

    #[test]
    fn what_lists_no_modules_is_refused() {
        let none = format!("path\texample.org/server\nbuild\t{}\n", "-".repeat(100));
        for program in [b"\x7fELF".to_vec(), MAGIC.to_vec(), program(&none)] {
            assert!(notice(&program).is_err());
        }
    }
}
