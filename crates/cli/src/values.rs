//! Values as people type them: sizes, durations, environment variables, places.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::time::Duration;

use smolvm_sandbox::control::Forward;
use smolvm_sandbox::{
    DiskMib, EngineChoice, HttpRule, HttpRuleError, MemoryMib, Mode, NameError, NamePattern,
    NetworkName, NetworkPolicy, PolicyTextError, Rule, RuleError, SandboxId, VcpuCount,
};

use crate::output;

/// Parses a size with an optional unit; a bare number is MiB.
fn mebibytes(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is not a size: use a number of MiB, or a unit as in 1G");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| expected())?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1.0,
        "g" | "gb" | "gib" => 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0,
        _ => return Err(expected()),
    };
    whole(number * factor).ok_or_else(expected)
}

/// Returns `number` as an integer, where it is one that is exact.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked first"
)]
fn whole(number: f64) -> Option<u64> {
    /// 2^53: up to here every integer is a floating-point number.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    ((0.0..=MAX_EXACT).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

/// Parses the memory of a sandbox.
pub(crate) fn memory(text: &str) -> Result<MemoryMib, String> {
    MemoryMib::try_from(mebibytes(text)?).map_err(|error| error.to_string())
}

/// Parses the size of a sandbox's disk.
pub(crate) fn disk(text: &str) -> Result<DiskMib, String> {
    DiskMib::try_from(mebibytes(text)?).map_err(|error| error.to_string())
}

/// Parses the number of virtual CPUs.
pub(crate) fn vcpus(text: &str) -> Result<VcpuCount, String> {
    let number: u64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a whole number"))?;
    VcpuCount::try_from(number).map_err(|error| error.to_string())
}

/// Parses the name of a sandbox.
pub(crate) fn sandbox_id(text: &str) -> Result<SandboxId, String> {
    text.parse()
        .map_err(|error: smolvm_sandbox::SpecError| error.to_string())
}

/// Parses the name of a private network.
pub(crate) fn network_name(text: &str) -> Result<NetworkName, String> {
    text.parse()
        .map_err(|error: smolvm_sandbox::NetworksError| error.to_string())
}

/// Parses a network mode.
pub(crate) fn network_mode(text: &str) -> Result<Mode, String> {
    text.parse()
        .map_err(|error: smolvm_sandbox::PolicyError| error.to_string())
}

/// Longest file of a policy that is read; as many rules as a policy may have are shorter.
const MAX_POLICY_BYTES: u64 = 1024 * 1024;

/// Reads the policy that a file has.
pub(crate) fn policy_file(path: &str) -> Result<NetworkPolicy, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_POLICY_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_POLICY_BYTES {
        return Err(format!("longer than {MAX_POLICY_BYTES} bytes"));
    }
    text.parse()
        .map_err(|error: PolicyTextError| error.to_string())
}

/// Parses what a rule allows.
pub(crate) fn allow_rule(text: &str) -> Result<Rule, String> {
    rule_of("allow", text)
}

/// Parses what a rule denies.
pub(crate) fn deny_rule(text: &str) -> Result<Rule, String> {
    rule_of("deny", text)
}

/// Parses a rule.
pub(crate) fn rule(text: &str) -> Result<Rule, String> {
    text.parse().map_err(|error: RuleError| error.to_string())
}

/// A secret as typed: its name, and the hosts that get its value.
#[derive(Clone, Debug)]
pub(crate) struct SecretArg {
    pub(crate) name: String,
    pub(crate) hosts: Vec<NamePattern>,
}

/// Parses `NAME@HOST[,HOST]`.
pub(crate) fn secret(text: &str) -> Result<SecretArg, String> {
    let (name, hosts) = text
        .split_once('@')
        .ok_or("a secret is NAME@HOST, as in API_KEY@api.example.com")?;
    let hosts = hosts.split(',').map(|host| {
        host.parse()
            .map_err(|error: NameError| format!("host '{host}': {error}"))
    });
    Ok(SecretArg {
        name: name.to_owned(),
        hosts: hosts.collect::<Result<_, _>>()?,
    })
}

/// Checks a rule for requests, and returns its text.
pub(crate) fn http_rule(text: &str) -> Result<String, String> {
    let checked: Result<HttpRule, HttpRuleError> = text.parse();
    checked
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

fn rule_of(action: &str, text: &str) -> Result<Rule, String> {
    rule(&format!("{action} {text}"))
}

/// Parses the name of an engine. Those of other programs that want KVM stand for `auto`, which uses
/// it where it is usable.
pub(crate) fn engine(text: &str) -> Result<EngineChoice, String> {
    match text {
        "firecracker" | "libkrun" => {
            output::error_line(&format!(
                "note: {text} is not a part of this program, which takes the best engine of its \
                 own instead, as for auto"
            ));
            Ok(EngineChoice::Auto)
        }
        "vz" => Err(format!(
            "this version has no engine {text:?}; it has kvm and qemu"
        )),
        _ => text
            .parse()
            .map_err(|error: smolvm_sandbox::SpecError| error.to_string()),
    }
}

/// Parses a duration: seconds, or a number with one of the units ms, s, m and h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("{text:?} is not a duration: use seconds, or a unit as in 500ms, 10s, 2m, 1h");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| expected())?;
    let seconds = match unit.trim() {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(expected()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

/// Parses a label: `KEY=VALUE`, or `KEY` for an empty value.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("{text:?} is not a label: use KEY=VALUE"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses a port.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("{text:?} is not a port: use 1 to 65535"))
}

/// Parses a port of this host and one of the guest.
pub(crate) fn forward(text: &str) -> Result<Forward, String> {
    let (host, guest) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?} is not HOST_PORT:GUEST_PORT"))?;
    Ok(Forward {
        host_port: port(host)?,
        guest_port: port(guest)?,
    })
}

/// Parses a share of the processors: `50%` is half a CPU, `1.5` one and a half.
pub(crate) fn cpu_percent(text: &str) -> Result<u32, String> {
    let expected = || format!("{text:?} is not a share of CPUs: use 0.5, 2 or 50%");
    let percent = match text.strip_suffix('%') {
        Some(number) => number.parse::<f64>().map_err(|_| expected())?,
        None => text.parse::<f64>().map_err(|_| expected())? * 100.0,
    };
    whole(percent.round())
        .and_then(|percent| u32::try_from(percent).ok())
        .filter(|percent| *percent > 0)
        .ok_or_else(expected)
}

/// Parses memory that one command may use.
pub(crate) fn limit_memory(text: &str) -> Result<u32, String> {
    u32::try_from(mebibytes(text)?)
        .ok()
        .filter(|mebibytes| *mebibytes > 0)
        .ok_or_else(|| format!("{text:?} is not memory that a command can have"))
}

/// Parses a time limit, which must not be zero.
pub(crate) fn time_limit(text: &str) -> Result<Duration, String> {
    let limit = duration(text)?;
    if limit < Duration::from_millis(1) {
        return Err("a time limit is at least 1ms".to_owned());
    }
    Ok(limit)
}

/// An environment variable as typed: `NAME=VALUE`, or `NAME` to pass the caller's value on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: OsString,
    pub(crate) value: Option<OsString>,
}

impl From<OsString> for Variable {
    fn from(typed: OsString) -> Self {
        let bytes = typed.as_bytes();
        match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) => Self {
                name: OsStr::from_bytes(&bytes[..at]).to_owned(),
                value: Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
            },
            None => Self {
                name: typed,
                value: None,
            },
        }
    }
}

/// A source or destination of a copy: a path of the host, or `NAME:PATH` for one of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the host.
    Host(PathBuf),
    /// In a sandbox.
    Sandbox {
        /// The sandbox.
        id: SandboxId,
        /// The path in it.
        path: PathBuf,
    },
}

impl From<OsString> for Place {
    fn from(typed: OsString) -> Self {
        let bytes = typed.as_bytes();
        let parts = bytes
            .iter()
            .position(|&byte| byte == b':')
            .map(|at| (&bytes[..at], &bytes[at + 1..]));
        // A name of a sandbox has no slash, so `./a:b` and `/x:y` are paths of the host.
        match parts {
            Some((name, path)) => match std::str::from_utf8(name).map(str::parse) {
                Ok(Ok(id)) => Self::Sandbox {
                    id,
                    path: PathBuf::from(OsString::from_vec(path.to_vec())),
                },
                _ => Self::Host(typed.into()),
            },
            None => Self::Host(typed.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_mebibytes_unless_they_say_otherwise() {
        let parsed = ["512", "512M", "1G", "1.5GiB", "2 gb", "1T"].map(mebibytes);
        assert_eq!(
            parsed,
            [512, 512, 1024, 1536, 2048, 1 << 20].map(Ok::<u64, String>)
        );
    }

    #[test]
    fn text_that_is_no_size_is_refused() {
        for text in [
            "",
            "G",
            "1.0001",
            "-1",
            "1e3",
            "1K",
            "1 2",
            "9999999999999999999999",
        ] {
            assert!(mebibytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_are_seconds_unless_they_say_otherwise() {
        let parsed = ["2", "0.5", "500ms", "2m", "1h"].map(|text| duration(text).expect(text));
        assert_eq!(
            parsed.map(|parsed| parsed.as_millis()),
            [2_000, 500, 500, 120_000, 3_600_000]
        );
    }

    #[test]
    fn text_that_is_no_duration_is_refused() {
        for text in ["", "s", "-1", "1d", "inf", "nan", "1e400", "1.2.3"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
        assert!(time_limit("0").is_err());
    }

    #[test]
    fn engines_of_other_versions_are_named_as_absent() {
        let message = engine("vz").expect_err("not part of this version");
        assert!(message.contains("it has kvm and qemu"), "{message}");
    }

    #[test]
    fn shares_of_cpus_are_numbers_or_percentages() {
        let parsed = ["0.5", "2", "50%", "1.5"].map(|text| cpu_percent(text).expect(text));
        assert_eq!(parsed, [50, 200, 50, 150]);
        for text in ["", "0", "-1", "%", "x", "1e99"] {
            assert!(cpu_percent(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn variable_is_split_at_its_first_equals_sign() {
        assert_eq!(
            Variable::from(OsString::from("A=b=c")),
            Variable {
                name: "A".into(),
                value: Some("b=c".into())
            }
        );
        assert_eq!(Variable::from(OsString::from("A")).value, None);
    }

    #[test]
    fn place_with_a_slash_before_its_colon_is_on_the_host() {
        assert_eq!(
            Place::from(OsString::from("./a:b")),
            Place::Host("./a:b".into())
        );
        assert_eq!(
            Place::from(OsString::from("box:/etc/hosts")),
            Place::Sandbox {
                id: "box".parse().expect("legal"),
                path: "/etc/hosts".into()
            }
        );
    }
}
