//! Arguments that say what a sandbox may reach.

use smolvm_sandbox::{
    ErrorKind, Mode, NetworkError, NetworkName, NetworkPolicy, Networks, Rule, SecretSpec,
    SecretsError,
};

use crate::failure::Failure;
use crate::values::{self, SecretArg};

/// Fastest network that can be asked for, in megabits per second; more is no limit.
const MAX_RATE_MBPS: i64 = 1_000_000;

/// What a sandbox may reach, as typed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// What it may reach: off, restricted (only what --allow names) or open (what is public)
    /// [default: restricted with --allow, else open].
    #[arg(long, value_name = "MODE", value_parser = values::network_mode)]
    net: Option<Mode>,

    /// Allow a name, *.name, address or network, as in example.com:443; can be given more than
    /// once.
    #[arg(long, value_name = "RULE", value_parser = values::allow_rule)]
    allow: Vec<Rule>,

    /// Deny one, whatever else allows it; can be given more than once.
    #[arg(long, value_name = "RULE", value_parser = values::deny_rule)]
    deny: Vec<Rule>,

    /// Take what it may reach from a file, as `network show` prints it; --allow and --deny add to it.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "net",
        value_parser = values::policy_file,
    )]
    policy: Option<NetworkPolicy>,

    /// A private network that it is in, whose members reach each other by their names; can be given
    /// more than once.
    #[arg(long = "network", value_name = "NAME", value_parser = values::network_name)]
    networks: Vec<NetworkName>,

    /// A secret: the guest has a placeholder in its variable NAME, and requests to HOST get the
    /// value of smolvm's own variable NAME; can be given more than once.
    #[arg(long = "secret", value_name = "NAME@HOST[,HOST]", value_parser = values::secret)]
    secrets: Vec<SecretArg>,

    /// The only requests that a host takes, as in 'GET,POST api.example.com/v1/*'; can be given
    /// more than once.
    #[arg(long = "http", value_name = "RULE", value_parser = values::http_rule)]
    http_rules: Vec<String>,

    /// How fast it may send, and receive, in megabits per second.
    #[arg(
        long,
        value_name = "MBPS",
        value_parser = clap::value_parser!(u32).range(1..=MAX_RATE_MBPS),
    )]
    network_rate: Option<u32>,
}

impl NetworkArgs {
    /// Returns what the sandbox may reach.
    pub(crate) fn policy(&self) -> Result<NetworkPolicy, Failure> {
        asked(self.policy.as_ref(), self.net, &self.allow, &self.deny)
    }

    /// Returns the private networks that it is in.
    pub(crate) fn networks(&self) -> Result<Networks, Failure> {
        Ok(Networks::new(self.networks.iter().cloned())?)
    }

    /// Returns the secrets, with their values from the environment.
    pub(crate) fn secrets(&self) -> Result<Vec<SecretSpec>, Failure> {
        self.secrets.iter().map(with_value).collect()
    }

    /// Returns which requests it may make, as text.
    pub(crate) fn http_rules(&self) -> &[String] {
        &self.http_rules
    }

    /// Returns how fast the network may be, if there is a limit.
    pub(crate) const fn rate_mbps(&self) -> Option<u32> {
        self.network_rate
    }
}

/// Returns the policy that is asked for by a file, a mode and rules.
pub(super) fn asked(
    file: Option<&NetworkPolicy>,
    mode: Option<Mode>,
    allow: &[Rule],
    deny: &[Rule],
) -> Result<NetworkPolicy, Failure> {
    let of_file = file.map_or(&[][..], NetworkPolicy::rules);
    let rules = of_file.iter().chain(allow).chain(deny).cloned().collect();
    let policy = NetworkPolicy::asked(file.map(NetworkPolicy::mode).or(mode), rules);
    Ok(policy.map_err(NetworkError::from)?)
}

fn with_value(secret: &SecretArg) -> Result<SecretSpec, Failure> {
    let SecretArg { name, hosts } = secret;
    let value = std::env::var(name).map_err(|_| {
        let message = format!("secret {name}: there is no environment variable of this name");
        Failure::new(ErrorKind::InvalidInput, message).hint(format!(
            "set it for smolvm, not on its command line, which others can see: export {name}"
        ))
    })?;
    let secret = SecretSpec::new(name, &value, hosts.clone());
    Ok(secret.map_err(SecretsError::from)?)
}
