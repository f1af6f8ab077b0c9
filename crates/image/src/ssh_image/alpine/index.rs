//! The index of a repository as records, and which of its packages some others need.
//!
//! Records are lines of a letter, a colon and a value, with an empty line after each (apk-tools,
//! "APKINDEX format"). Versions are not compared: a repository belongs to one release, and what
//! its packages ask for is in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base64ct::{Base64, Encoding as _};

use super::AlpineError;

/// Most packages that are installed; sshd and the rest need some 30.
const MAX_PACKAGES: usize = 500;

/// One package of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) version: String,
    /// SHA-1 of the package's control part.
    pub(super) control_sha1: Vec<u8>,
    depends: Vec<String>,
    provides: Vec<String>,
    /// Greater is preferred among packages that provide the same.
    priority: u64,
    /// The record as it stands in the index.
    pub(super) text: String,
}

/// Returns the records of `index`; one that is not understood is left out, and is missed by name
/// if something needs it.
pub(super) fn parse(index: &str) -> Vec<Record> {
    index.split("\n\n").filter_map(parse_record).collect()
}

fn parse_record(text: &str) -> Option<Record> {
    let value = |letter: &str| text.lines().find_map(|line| line.strip_prefix(letter));
    let words = |letter: &str| {
        let words = value(letter).unwrap_or_default().split_whitespace();
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let name = value("P:")?;
    let is_plain = |text: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-._~".contains(c);
        !text.is_empty() && !text.starts_with('.') && text.chars().all(is_plain)
    };
    let version = value("V:")?;
    if !is_plain(name) || !is_plain(version) {
        return None;
    }
    Some(Record {
        name: name.to_owned(),
        version: version.to_owned(),
        control_sha1: Base64::decode_vec(value("C:Q1")?).ok()?,
        depends: words("D:"),
        provides: words("p:"),
        priority: value("k:").and_then(|text| text.parse().ok()).unwrap_or(0),
        text: text.trim().to_owned(),
    })
}

/// Returns what is to be installed so that `wanted` is there, besides what is `installed`.
pub(super) fn closure<'a>(
    available: &'a [Record],
    installed: &[Record],
    wanted: &[&str],
) -> Result<Vec<&'a Record>, AlpineError> {
    let mut there: BTreeSet<&str> = installed.iter().flat_map(names_of).collect();
    let mut providers: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in available {
        for name in names_of(record) {
            providers.entry(name).or_default().push(record);
        }
    }
    let mut chosen: Vec<&Record> = Vec::new();
    let mut needed: VecDeque<(&str, &str)> = wanted.iter().map(|name| (*name, "SmolVM")).collect();
    while let Some((name, needed_by)) = needed.pop_front() {
        if there.contains(name) {
            continue;
        }
        let candidates = providers.get(name).map(Vec::as_slice).unwrap_or_default();
        let best = candidates
            .iter()
            // The package of the very name, then what its repository prefers, then the first.
            .min_by_key(|record| {
                (
                    record.name != name,
                    u64::MAX - record.priority,
                    &record.name,
                )
            })
            .ok_or_else(|| AlpineError::NoPackage {
                name: name.to_owned(),
                needed_by: needed_by.to_owned(),
            })?;
        there.extend(names_of(best));
        chosen.push(best);
        if chosen.len() > MAX_PACKAGES {
            return Err(AlpineError::TooManyPackages);
        }
        let depends = best.depends.iter().filter(|word| !word.starts_with('!'));
        needed.extend(depends.map(|word| (without_version(word), best.name.as_str())));
    }
    Ok(chosen)
}

/// Returns all names under which `record` can be asked for.
fn names_of(record: &Record) -> impl Iterator<Item = &str> {
    let provides = record.provides.iter().map(|word| without_version(word));
    provides.chain([record.name.as_str()])
}

/// Returns `word` without the version it must have, and without the repository it is tagged with.
fn without_version(word: &str) -> &str {
    word.split(['<', '>', '=', '~', '@']).next().unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "\
C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:openssh\nV:10.2-r0\nD:so:libcrypto.so.3 openssh-keygen>=10 !dropbear /bin/sh

C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:openssh-keygen\nV:10.2-r0\nD:so:libcrypto.so.3

C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:libcrypto3\nV:3.5.4-r0\np:so:libcrypto.so.3=3
";

    fn names(installed: &str, wanted: &[&str]) -> Result<Vec<String>, AlpineError> {
        let available = parse(INDEX);
        let chosen = closure(&available, &parse(installed), wanted)?;
        Ok(chosen.iter().map(|record| record.name.clone()).collect())
    }

    const SHELL: &str = "C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:busybox\nV:1\np:/bin/sh cmd:sh=1\n";

    #[test]
    fn everything_that_is_needed_comes_once() {
        assert_eq!(
            names(SHELL, &["openssh"]).unwrap(),
            ["openssh", "libcrypto3", "openssh-keygen"]
        );
    }

    #[test]
    fn what_nobody_provides_is_named_with_who_needs_it() {
        let error = names("", &["openssh"]).unwrap_err().to_string();
        assert!(
            error.contains("/bin/sh") && error.contains("openssh"),
            "{error}"
        );
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_no_packages() {
        let index = "C:Q1AAAA\nP:../../etc/passwd\nV:1\n\nC:Q1AAAA\nP:a\nV:1/../..\n";
        assert_eq!(parse(index), []);
    }
}
