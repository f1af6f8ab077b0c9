//! What a browser session is asked to be: every rule and every default, for all front ends.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use smolvm_network::{Mode, NetworkPolicy, PolicyError, Rule, RuleError};

use crate::{
    DiskMib, EngineChoice, EnvError, ErrorKind, MemoryMib, SandboxId, SpecError, VcpuCount,
    check_env_key,
};

/// Minutes after which a session ends, unless it is asked otherwise.
pub const DEFAULT_TIMEOUT_MINUTES: u64 = 30;

/// The viewport that most pages are made for, width and height.
pub const DEFAULT_VIEWPORT: (u64, u64) = (1280, 720);

/// 2 GiB: Chromium with a few pages; it takes no more of the host than it uses.
pub const DEFAULT_BROWSER_MEMORY_MIB: u64 = 2048;

/// 4 GiB, sparse: the profile, downloads and an hour's video.
pub const DEFAULT_BROWSER_DISK_MIB: u64 = 4096;

/// Two virtual CPUs: one draws while the other runs the page's scripts.
pub const DEFAULT_BROWSER_VCPUS: u64 = 2;

/// Bytes of a profile's name that its sandbox's name repeats; with the words around it, a
/// sandbox's name has at most 64.
const MAX_SLUG_BYTES: usize = 40;

/// Why a browser session cannot be as asked.
#[derive(Debug, thiserror::Error)]
pub enum BrowserConfigError {
    /// A name is not legal.
    #[error("{field}: {source}")]
    Name {
        /// The field that holds it.
        field: &'static str,
        /// What is wrong with it.
        source: SpecError,
    },
    /// A number is out of its range.
    #[error("{field} is {value}; it must be {min} to {max}")]
    OutOfRange {
        /// The field that holds it.
        field: &'static str,
        /// The number given.
        value: u64,
        /// Least legal value.
        min: u64,
        /// Greatest legal value.
        max: u64,
    },
    /// A word is none of those there are.
    #[error("{field}: {value:?} is none of {choices}")]
    Choice {
        /// The field that holds it.
        field: &'static str,
        /// The word given, cut to a printable length.
        value: String,
        /// The words there are.
        choices: &'static str,
    },
    /// A persistent profile has no name.
    #[error("profile_id is required when profile_mode='persistent'")]
    NoProfile,
    /// There is nothing to record.
    #[error("record_video requires mode='live'")]
    NothingToRecord,
    /// The viewport is given twice, and differs.
    #[error("viewport.{side} must match viewport_{side}")]
    Viewport {
        /// `width` or `height`.
        side: &'static str,
    },
    /// The name of a network policy is blank.
    #[error("network_policy_id cannot be blank")]
    BlankPolicy,
    /// An environment variable has a name that no shell takes.
    #[error("env_vars: {0}")]
    Variable(#[from] EnvError),
    /// A domain is none. The index counts from 0.
    #[error("allowed_domains.{index}: {source}")]
    Domain {
        /// Which of them.
        index: usize,
        /// What is wrong with it.
        source: RuleError,
    },
    /// There are too many domains.
    #[error("allowed_domains: {0}")]
    Domains(#[from] PolicyError),
}

impl BrowserConfigError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    /// Returns the field of [`AskedBrowser`] that is wrong.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Name { field, .. }
            | Self::OutOfRange { field, .. }
            | Self::Choice { field, .. } => field,
            Self::NoProfile => "profile_id",
            Self::NothingToRecord => "record_video",
            Self::Viewport { .. } => "viewport",
            Self::BlankPolicy => "network_policy_id",
            Self::Variable(_) => "env_vars",
            Self::Domain { .. } | Self::Domains(_) => "allowed_domains",
        }
    }
}

/// A browser session as asked for, before anybody has looked at it. Absent values are defaults.
#[derive(Clone, Debug, Default)]
pub struct AskedBrowser {
    /// Its name; a random one when absent.
    pub session_id: Option<String>,
    /// Its engine.
    pub engine: EngineChoice,
    /// `chromium`.
    pub browser: Option<String>,
    /// `headless` or `live`.
    pub mode: Option<String>,
    /// `ephemeral` or `persistent`.
    pub profile_mode: Option<String>,
    /// Name of a persistent profile.
    pub profile_id: Option<String>,
    /// Minutes that it lives.
    pub timeout_minutes: Option<u64>,
    /// Width of the page, in CSS pixels.
    pub viewport_width: Option<u64>,
    /// Height of the page, in CSS pixels.
    pub viewport_height: Option<u64>,
    /// Both of them at once.
    pub viewport: Option<(u64, u64)>,
    /// Whether a video of it is recorded.
    pub record_video: bool,
    /// Whether pages may not save files.
    pub denies_downloads: bool,
    /// Name of a network policy: reserved.
    pub network_policy_id: Option<String>,
    /// Variables of the browser's environment.
    pub env_vars: BTreeMap<String, String>,
    /// Its memory, in MiB.
    pub memory_mib: Option<u64>,
    /// Size of its disk, in MiB.
    pub disk_mib: Option<u64>,
    /// Its virtual CPUs.
    pub vcpus: Option<u64>,
    /// Names that pages may come from, each a rule as in `*.example.com:443`; when absent, all of
    /// the public internet.
    pub allowed_domains: Option<Vec<String>>,
}

/// Whether people can watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrowserMode {
    /// Nothing is shown.
    Headless,
    /// A display is shown that people can watch and use.
    Live,
}

impl BrowserMode {
    /// Returns the mode's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Headless => "headless",
            Self::Live => "live",
        }
    }
}

impl FromStr for BrowserMode {
    type Err = BrowserConfigError;

    fn from_str(name: &str) -> Result<Self, BrowserConfigError> {
        match name {
            "headless" => Ok(Self::Headless),
            "live" => Ok(Self::Live),
            _ => Err(choice("mode", name, "headless, live")),
        }
    }
}

/// A browser session that is legal. Environment variables are no part of it: they are secrets,
/// and are written nowhere on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrowserConfig {
    /// Its name, when it was given one.
    pub session_id: Option<SandboxId>,
    /// Its engine.
    pub engine: EngineChoice,
    /// Whether people can watch.
    pub mode: BrowserMode,
    /// Name of its profile, where that is kept.
    pub profile_id: Option<SandboxId>,
    /// Minutes that it lives.
    pub timeout_minutes: u32,
    /// Width of the page, in CSS pixels.
    pub width: u32,
    /// Height of the page, in CSS pixels.
    pub height: u32,
    /// Whether a video of it is recorded.
    pub record_video: bool,
    /// Whether pages may save files.
    pub allow_downloads: bool,
    /// Name of a network policy: reserved.
    pub network_policy_id: Option<String>,
    /// Its memory.
    pub memory: MemoryMib,
    /// Size of its disk.
    pub disk: DiskMib,
    /// Its virtual CPUs.
    pub vcpus: VcpuCount,
    /// What it may reach.
    pub network: NetworkPolicy,
}

impl BrowserConfig {
    /// Returns the session that is asked for, when it can be.
    ///
    /// # Errors
    ///
    /// When a value is not legal, or two do not go together; the error names the field.
    pub fn new(asked: &AskedBrowser) -> Result<Self, BrowserConfigError> {
        check_browser(asked.browser.as_deref())?;
        let mode = asked.mode.as_deref().unwrap_or("headless").parse()?;
        let profile_id = profile(asked)?;
        let (width, height) = viewport(asked)?;
        if asked.record_video && mode == BrowserMode::Headless {
            return Err(BrowserConfigError::NothingToRecord);
        }
        if let Some(policy) = &asked.network_policy_id
            && policy.trim().is_empty()
        {
            return Err(BrowserConfigError::BlankPolicy);
        }
        for name in asked.env_vars.keys() {
            check_env_key(name)?;
        }
        Ok(Self {
            session_id: name("session_id", asked.session_id.as_deref())?,
            engine: asked.engine,
            mode,
            profile_id,
            timeout_minutes: within(
                "timeout_minutes",
                asked.timeout_minutes.unwrap_or(DEFAULT_TIMEOUT_MINUTES),
                1..=240,
            )?,
            width,
            height,
            record_video: asked.record_video,
            allow_downloads: !asked.denies_downloads,
            network_policy_id: asked.network_policy_id.clone(),
            memory: memory(asked.memory_mib.unwrap_or(DEFAULT_BROWSER_MEMORY_MIB))?,
            disk: disk(asked.disk_mib.unwrap_or(DEFAULT_BROWSER_DISK_MIB))?,
            vcpus: VcpuCount::try_from(asked.vcpus.unwrap_or(DEFAULT_BROWSER_VCPUS))
                .map_err(named("vcpu_count"))?,
            network: network(asked.allowed_domains.as_deref())?,
        })
    }

    /// Returns the name of the profile in the guest.
    pub(super) fn profile_name<'a>(&'a self, session_id: &'a SandboxId) -> &'a SandboxId {
        self.profile_id.as_ref().unwrap_or(session_id)
    }
}

/// Returns the name of the sandbox in which a kept profile lives.
pub(super) fn sandbox_of_profile(profile_id: &SandboxId) -> SandboxId {
    let digest = Sha256::digest(profile_id.as_str());
    let hash: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let slug = profile_id.as_str();
    let slug = &slug[..slug.len().min(MAX_SLUG_BYTES)];
    format!("browser-prof-{slug}-{hash}")
        .parse()
        .expect("legal characters, and at most 13 + 40 + 9 of them")
}

fn check_browser(browser: Option<&str>) -> Result<(), BrowserConfigError> {
    match browser {
        None | Some("chromium") => Ok(()),
        Some(other) => Err(choice("browser", other, "chromium")),
    }
}

fn profile(asked: &AskedBrowser) -> Result<Option<SandboxId>, BrowserConfigError> {
    let profile_id = name("profile_id", asked.profile_id.as_deref())?;
    match asked.profile_mode.as_deref().unwrap_or("ephemeral") {
        "ephemeral" => Ok(None),
        "persistent" => profile_id.map(Some).ok_or(BrowserConfigError::NoProfile),
        other => Err(choice("profile_mode", other, "ephemeral, persistent")),
    }
}

fn viewport(asked: &AskedBrowser) -> Result<(u32, u32), BrowserConfigError> {
    let side = |side, own: Option<u64>, both: Option<u64>, default| match (own, both) {
        (Some(own), Some(both)) if own != both => Err(BrowserConfigError::Viewport { side }),
        (own, both) => Ok(both.or(own).unwrap_or(default)),
    };
    let both = asked.viewport;
    let width = side(
        "width",
        asked.viewport_width,
        both.map(|(width, _)| width),
        DEFAULT_VIEWPORT.0,
    )?;
    let height = side(
        "height",
        asked.viewport_height,
        both.map(|(_, height)| height),
        DEFAULT_VIEWPORT.1,
    )?;
    Ok((
        within("viewport_width", width, 640..=7680)?,
        within("viewport_height", height, 480..=4320)?,
    ))
}

fn network(domains: Option<&[String]>) -> Result<NetworkPolicy, BrowserConfigError> {
    let Some(domains) = domains else {
        return Ok(NetworkPolicy::default());
    };
    let rules = domains.iter().enumerate().map(|(index, domain)| {
        format!("allow {domain}")
            .parse::<Rule>()
            .map_err(|source| BrowserConfigError::Domain { index, source })
    });
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    Ok(NetworkPolicy::new(Mode::Restricted, rules)?)
}

fn memory(mib: u64) -> Result<MemoryMib, BrowserConfigError> {
    let mib = within("mem_size_mib", mib, 512..=16_384)?;
    MemoryMib::try_from(mib).map_err(named("mem_size_mib"))
}

fn disk(mib: u64) -> Result<DiskMib, BrowserConfigError> {
    let mib = within("disk_size_mib", mib, 2048..=16_384)?;
    DiskMib::try_from(mib).map_err(named("disk_size_mib"))
}

fn name(field: &'static str, name: Option<&str>) -> Result<Option<SandboxId>, BrowserConfigError> {
    name.map(str::parse).transpose().map_err(named(field))
}

fn named(field: &'static str) -> impl FnOnce(SpecError) -> BrowserConfigError {
    move |source| BrowserConfigError::Name { field, source }
}

fn within(
    field: &'static str,
    value: u64,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32, BrowserConfigError> {
    match u32::try_from(value) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(BrowserConfigError::OutOfRange {
            field,
            value,
            min: (*range.start()).into(),
            max: (*range.end()).into(),
        }),
    }
}

fn choice(
    field: &'static str,
    value: impl fmt::Display,
    choices: &'static str,
) -> BrowserConfigError {
    BrowserConfigError::Choice {
        field,
        value: value.to_string().chars().take(80).collect(),
        choices,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut AskedBrowser)) -> String {
        let mut asked = AskedBrowser::default();
        change(&mut asked);
        let error = BrowserConfig::new(&asked).expect_err("not legal");
        error.to_string()
    }

    #[test]
    fn defaults_are_legal() {
        let config = BrowserConfig::new(&AskedBrowser::default()).expect("legal");
        assert_eq!((config.width, config.height), (1280, 720));
        assert_eq!((config.memory.get(), config.disk.get()), (2048, 4096));
        assert_eq!((config.vcpus.get(), config.timeout_minutes), (2, 30));
        assert_eq!(config.network, NetworkPolicy::default());
    }

    #[test]
    fn what_does_not_go_together_is_refused_in_the_words_of_the_interface() {
        assert_eq!(
            refusal(|asked| asked.profile_mode = Some("persistent".to_owned())),
            "profile_id is required when profile_mode='persistent'"
        );
        assert_eq!(
            refusal(|asked| asked.record_video = true),
            "record_video requires mode='live'"
        );
        let mismatch = refusal(|asked| {
            asked.viewport_width = Some(1280);
            asked.viewport = Some((1440, 900));
        });
        assert_eq!(mismatch, "viewport.width must match viewport_width");
    }

    #[test]
    fn numbers_beyond_their_range_are_refused_by_name() {
        for (refusal, field) in [
            (
                refusal(|asked| asked.timeout_minutes = Some(0)),
                "timeout_minutes",
            ),
            (
                refusal(|asked| asked.timeout_minutes = Some(241)),
                "timeout_minutes",
            ),
            (
                refusal(|asked| asked.viewport_width = Some(639)),
                "viewport_width",
            ),
            (
                refusal(|asked| asked.viewport = Some((1280, 4321))),
                "viewport_height",
            ),
            (
                refusal(|asked| asked.memory_mib = Some(511)),
                "mem_size_mib",
            ),
            (
                refusal(|asked| asked.disk_mib = Some(16_385)),
                "disk_size_mib",
            ),
            (refusal(|asked| asked.vcpus = Some(33)), "vcpu_count"),
        ] {
            assert!(refusal.starts_with(field), "{refusal}");
        }
    }

    #[test]
    fn words_and_names_that_are_none_are_refused() {
        for refusal in [
            refusal(|asked| asked.mode = Some("visible".to_owned())),
            refusal(|asked| asked.browser = Some("firefox".to_owned())),
            refusal(|asked| asked.profile_mode = Some("kept".to_owned())),
        ] {
            assert!(refusal.contains("is none of"), "{refusal}");
        }
        for refusal in [
            refusal(|asked| asked.session_id = Some("../x".to_owned())),
            refusal(|asked| asked.profile_id = Some("A".to_owned())),
        ] {
            assert!(refusal.contains("invalid sandbox name"), "{refusal}");
        }
        assert!(refusal(|asked| asked.network_policy_id = Some(" ".to_owned())).contains("blank"));
        let domains = Some(vec!["example.com".to_owned(), "not a name".to_owned()]);
        assert!(refusal(|asked| asked.allowed_domains = domains).starts_with("allowed_domains.1"));
    }

    #[test]
    fn list_of_domains_denies_the_rest_even_when_it_is_empty() {
        let asked = AskedBrowser {
            allowed_domains: Some(Vec::new()),
            ..AskedBrowser::default()
        };
        let config = BrowserConfig::new(&asked).expect("legal");
        assert_eq!(config.network.mode(), Mode::Restricted);
    }

    #[test]
    fn profiles_of_long_and_similar_names_have_sandboxes_of_their_own() {
        let long: SandboxId = "x".repeat(64).parse().expect("legal");
        let longer: SandboxId = format!("{}y", "x".repeat(63)).parse().expect("legal");
        assert_ne!(sandbox_of_profile(&long), sandbox_of_profile(&longer));
        let name = sandbox_of_profile(&"work".parse().expect("legal"));
        assert!(name.as_str().starts_with("browser-prof-work-"), "{name}");
        assert_eq!(name.as_str().len(), "browser-prof-work-".len() + 8);
    }
}
