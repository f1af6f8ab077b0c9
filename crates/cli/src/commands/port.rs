//! `port`: ports of guests on this host's loopback.

use serde_json::{Value, json};
use smolvm_sandbox::control::Forward;
use smolvm_sandbox::{ErrorKind, SandboxId};
use tokio::io::{AsyncWriteExt as _, copy};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::table::table;
use crate::values;

/// `port` as typed.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a port of a guest reachable on 127.0.0.1, until it is closed or the sandbox stops.
    #[command(visible_alias = "open")]
    Expose(ExposeArgs),
    /// Close an exposed port and its connections.
    Close(CloseArgs),
    /// List the ports that are exposed.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Join standard input and output to a port of a guest, as ssh's ProxyCommand wants it.
    Connect(ConnectArgs),
}

/// `port expose` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct ExposeArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Port in the guest, or HOST_PORT:GUEST_PORT.
    #[arg(value_name = "[HOST_PORT:]GUEST_PORT", value_parser = port_pair)]
    ports: (Option<u16>, u16),

    /// Port on this host; another one is taken when it is in use.
    #[arg(long, value_name = "PORT", value_parser = values::port)]
    host_port: Option<u16>,
}

/// `port close` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct CloseArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Port on this host.
    #[arg(value_name = "HOST_PORT", value_parser = values::port)]
    host_port: u16,
}

/// `port list` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,
}

/// `port connect` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Port in the guest.
    #[arg(value_name = "GUEST_PORT", value_parser = values::port)]
    guest_port: u16,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Expose(_) => "port.expose",
            Self::Close(_) => "port.close",
            Self::List(_) => "port.list",
            Self::Connect(_) => "port.connect",
        }
    }
}

/// Exposes, closes, lists or connects.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Report, Failure> {
    match command {
        Command::Expose(args) => expose(args, context).await,
        Command::Close(args) => close(args, context).await,
        Command::List(args) => list(args, context).await,
        Command::Connect(args) => connect(args, context).await,
    }
}

async fn expose(args: ExposeArgs, context: &Context) -> Result<Report, Failure> {
    let (in_pair, guest_port) = args.ports;
    let wished = args.host_port.or(in_pair);
    let sandbox = context.sandbox(&args.name)?;
    let forward = sandbox.forward(guest_port, wished).await?;
    let mut text = format!(
        "127.0.0.1:{} -> port {} of {}\n",
        forward.host_port, forward.guest_port, args.name
    );
    if let Some(wished) = wished.filter(|wished| *wished != forward.host_port) {
        text.push_str(&format!("port {wished} of this host is in use\n"));
    }
    let mut data = forward_json(&forward);
    data["vm_id"] = json!(args.name);
    Ok(Report::new(data, text))
}

async fn close(args: CloseArgs, context: &Context) -> Result<Report, Failure> {
    let sandbox = context.sandbox(&args.name)?;
    let forwards = sandbox.forwards().await?;
    let forward = forwards
        .into_iter()
        .find(|forward| forward.host_port == args.host_port)
        .ok_or_else(|| {
            let message = format!(
                "port {} is not one that {} exposes",
                args.host_port, args.name
            );
            Failure::new(ErrorKind::NotFound, message)
                .hint(format!("list them: smolvm port list {}", args.name))
        })?;
    sandbox.unforward(forward).await?;
    let mut data = forward_json(&forward);
    data["vm_id"] = json!(args.name);
    Ok(Report::new(
        data,
        format!("closed 127.0.0.1:{}\n", args.host_port),
    ))
}

async fn list(args: ListArgs, context: &Context) -> Result<Report, Failure> {
    let forwards = context.sandbox(&args.name)?.forwards().await?;
    let rows: Vec<[String; 2]> = forwards
        .iter()
        .map(|forward| {
            let host = format!("127.0.0.1:{}", forward.host_port);
            [host, forward.guest_port.to_string()]
        })
        .collect();
    let text = if rows.is_empty() {
        let name = &args.name;
        format!("{name} exposes no ports. Expose one: smolvm port expose {name} 8000\n")
    } else {
        table(["HOST", "GUEST PORT"], &rows)
    };
    let ports: Vec<Value> = forwards.iter().map(forward_json).collect();
    Ok(Report::new(
        json!({"vm_id": args.name, "ports": ports}),
        text,
    ))
}

async fn connect(args: ConnectArgs, context: &Context) -> Result<Report, Failure> {
    if context.settings.is_json {
        let message = "the bytes of a connection are no JSON document";
        return Err(Failure::new(ErrorKind::InvalidInput, message).hint("leave out --json"));
    }
    let guest = context.sandbox(&args.name)?.dial(args.guest_port).await?;
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    let sending = async {
        copy(&mut tokio::io::stdin(), &mut to_guest).await?;
        to_guest.shutdown().await
    };
    let receiving = async {
        let mut stdout = tokio::io::stdout();
        copy(&mut from_guest, &mut stdout).await?;
        stdout.flush().await
    };
    let ended = async {
        // What is sent ends with the input; the connection ends with the guest's side.
        tokio::pin!(sending, receiving);
        tokio::select! {
            received = &mut receiving => received,
            sent = &mut sending => match sent {
                Ok(()) => receiving.await,
                Err(error) => Err(error),
            },
        }
    };
    ended.await.map_err(|error: std::io::Error| {
        Failure::new(ErrorKind::Host, format!("carry the connection: {error}"))
    })?;
    Ok(Report::default())
}

fn forward_json(forward: &Forward) -> Value {
    json!({
        "host_address": "127.0.0.1",
        "host_port": forward.host_port,
        "guest_port": forward.guest_port,
    })
}

fn port_pair(text: &str) -> Result<(Option<u16>, u16), String> {
    match text.split_once(':') {
        Some((host, guest)) => Ok((Some(values::port(host)?), values::port(guest)?)),
        None => Ok((None, values::port(text)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_is_host_then_guest() {
        assert_eq!(port_pair("8080:80"), Ok((Some(8080), 80)));
        assert_eq!(port_pair("80"), Ok((None, 80)));
    }

    #[test]
    fn numbers_that_are_no_ports_are_refused() {
        for text in ["", "0", "65536", "-1", "80:", ":80", "a", "1:2:3"] {
            assert!(port_pair(text).is_err(), "{text:?}");
        }
    }
}
