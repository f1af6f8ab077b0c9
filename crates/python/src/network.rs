//! What a sandbox may reach and has reached, as Python asks and is told.

use std::net::Ipv4Addr;
use std::sync::Arc;

use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use smolvm_sandbox::control::NetworkChange;
use smolvm_sandbox::{
    Mode, NetworkLog as Library, NetworkName, NetworkPolicy, NetworkRecord, Networks,
    NetworksError, PolicyError, PolicyTextError, Rule, RuleAction, RuleError, SandboxInfo,
    from_internet_settings, network,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::failure::Failure;
use crate::operation::Operation;
use crate::sandbox::Sandbox;

/// A policy as Python has it: its mode, what it allows, and what it denies.
pub(crate) type PolicyArgument = (Option<String>, Vec<String>, Vec<String>);

/// Returns the policy that Python asks for; an error names the part of `field` that is wrong.
pub(crate) fn policy(field: &str, asked: &PolicyArgument) -> Result<NetworkPolicy, Failure> {
    let (mode, allow, deny) = asked;
    let illegal = |error: PolicyError| Failure::argument(field, error.to_string());
    let mode = mode.as_deref().map(str::parse::<Mode>).transpose();
    let mode =
        mode.map_err(|error| Failure::argument(&format!("{field}.mode"), error.to_string()))?;
    let mut rules = rules(&format!("{field}.allow"), "allow ", allow)?;
    rules.extend(self::rules(&format!("{field}.deny"), "deny ", deny)?);
    NetworkPolicy::asked(mode, rules).map_err(illegal)
}

fn rules(field: &str, action: &str, texts: &[String]) -> Result<Vec<Rule>, Failure> {
    let rule = |(index, text): (usize, &String)| {
        format!("{action}{text}")
            .parse()
            .map_err(|error: RuleError| {
                Failure::argument(&format!("{field}.{index}"), error.to_string())
            })
    };
    texts.iter().enumerate().map(rule).collect()
}

/// Returns the private networks that Python asks for; an error names the part that is wrong.
pub(crate) fn networks(field: &str, names: &[String]) -> Result<Networks, Failure> {
    let name = |(index, name): (usize, &String)| {
        name.parse().map_err(|error: NetworksError| {
            Failure::argument(&format!("{field}.{index}"), error.to_string())
        })
    };
    let names: Vec<NetworkName> = names
        .iter()
        .enumerate()
        .map(name)
        .collect::<Result<_, _>>()?;
    Networks::new(names).map_err(|error| Failure::argument(field, error.to_string()))
}

/// Checks names of private networks, and returns each once.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "PyO3 makes the list of Python's"
)]
pub(crate) fn check_networks(
    py: Python<'_>,
    field: &str,
    names: Vec<String>,
) -> PyResult<Vec<String>> {
    let checked = networks(field, &names).map(|checked| network_names(&checked));
    checked.map_err(|failure| failure.into_py_err(py))
}

/// Returns private networks as Python has them.
pub(crate) fn network_names(networks: &Networks) -> Vec<String> {
    networks
        .as_slice()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Returns a policy as Python has it.
pub(crate) fn parts(policy: &NetworkPolicy) -> PolicyArgument {
    let of = |action: RuleAction| {
        let rules = policy.rules().iter();
        let rules = rules.filter(move |rule| rule.action() == action);
        rules.map(Rule::subject).collect()
    };
    let mode = Some(policy.mode().to_string());
    (mode, of(RuleAction::Allow), of(RuleAction::Deny))
}

/// Returns the guest's addresses, where it has a network.
pub(crate) fn addresses<'py>(
    py: Python<'py>,
    info: &SandboxInfo,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    if info.spec.network.mode() == Mode::Off {
        return Ok(None);
    }
    let side = network::guest_side(network::device());
    let netmask = Ipv4Addr::from_bits(u32::MAX << (32 - side.ipv4.prefix_length));
    let mac = side.mac.map(|byte| format!("{byte:02x}")).join(":");
    let addresses = PyDict::new(py);
    addresses.set_item("guest_ip", side.ipv4.address.to_string())?;
    addresses.set_item("gateway_ip", side.ipv4.gateway.to_string())?;
    addresses.set_item("netmask", netmask.to_string())?;
    addresses.set_item("guest_mac", mac)?;
    Ok(Some(addresses))
}

/// Returns a policy as it is kept, when it is legal.
#[pyfunction]
pub(crate) fn check_network(
    py: Python<'_>,
    field: &str,
    asked: PolicyArgument,
) -> PyResult<PolicyArgument> {
    let checked = policy(field, &asked).map(|policy| parts(&policy));
    checked.map_err(|failure| failure.into_py_err(py))
}

/// Returns the policy that a text means, as a file has it.
#[pyfunction]
pub(crate) fn policy_of_text(py: Python<'_>, text: &str) -> PyResult<PolicyArgument> {
    text.parse()
        .map(|policy: NetworkPolicy| parts(&policy))
        .map_err(|error: PolicyTextError| {
            Failure::argument("network", error.to_string()).into_py_err(py)
        })
}

/// Returns the policy that the older `internet_settings` mean.
#[pyfunction]
pub(crate) fn internet_policy(
    py: Python<'_>,
    mode: Option<&str>,
    allowed_cidrs: Vec<String>,
    allowed_domains: Vec<String>,
) -> PyResult<PolicyArgument> {
    from_internet_settings(mode, &allowed_cidrs, &allowed_domains)
        .map(|policy| parts(&policy))
        .map_err(|error| Failure::from(error).into_py_err(py))
}

/// Returns what a sandbox may reach.
#[pyfunction]
pub(crate) fn network_policy(py: Python<'_>, sandbox: &Sandbox) -> PyResult<PolicyArgument> {
    let policy = py.detach(|| sandbox.core().access().network_policy());
    policy
        .map(|policy| parts(&policy))
        .map_err(|error| Failure::from(error).into_py_err(py))
}

/// Changes what a sandbox may reach. With a mode, the rules there were are gone.
#[pyfunction]
pub(crate) fn change_network(
    py: Python<'_>,
    sandbox: &Sandbox,
    asked: PolicyArgument,
    remove: Vec<String>,
) -> PyResult<Operation> {
    let checked = || -> Result<NetworkChange, Failure> {
        let (mode, allow, deny) = &asked;
        let mut add = rules("allow", "allow ", allow)?;
        add.extend(rules("deny", "deny ", deny)?);
        let text = |rules: Vec<Rule>| rules.iter().map(Rule::to_string).collect();
        Ok(NetworkChange {
            clears_rules: mode.is_some(),
            mode: mode.clone(),
            add: text(add),
            remove: text(rules("remove", "", &remove)?),
        })
    };
    let change = checked().map_err(|failure| failure.into_py_err(py))?;
    let core = sandbox.core().clone();
    Ok(Operation::silent(async move {
        core.access().change_network(&change).await
    }))
}

/// Reads the log of a sandbox's network. Returns its records, as JSON, and what waits for more.
#[pyfunction]
pub(crate) fn network_log(sandbox: &Sandbox) -> Operation {
    let core = sandbox.core().clone();
    let work = async move { core.access().network_log() };
    Operation::new(work, |py, (records, log)| {
        let log = NetworkLog {
            log: Arc::new(AsyncMutex::new(log)),
        };
        (json(&records), log).into_py_any(py)
    })
}

/// The log of a sandbox's network as far as it was read.
#[pyclass(frozen, module = "smolvm._native")]
pub(crate) struct NetworkLog {
    log: Arc<AsyncMutex<Library>>,
}

#[pymethods]
impl NetworkLog {
    /// Waits for more records, as JSON; `None` when there will be no more.
    fn next(&self) -> Operation {
        let log = Arc::clone(&self.log);
        let work = async move { log.lock().await.next().await };
        Operation::new(work, |py, records: Option<Vec<NetworkRecord>>| {
            records.map(|records| json(&records)).into_py_any(py)
        })
    }
}

fn json(records: &[NetworkRecord]) -> String {
    serde_json::to_string(records).expect("records have text for keys and numbers that are finite")
}
