//! Talking with the supervisor: requests in, replies and the machine's end out.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use smolvm_protocol::vmm::{
    AGENT_FD, CONSOLE_FD, CONTROL_FD, MAX_LINE_BYTES, MachineDescription, MachineEnd, NETWORK_FD,
    Reply, Request,
};

use super::{Connections, Machine};
use crate::jail;
use crate::jail::filters::ThreadKind;
use crate::sys::inherited_socket;

/// What the main thread waits for.
pub(crate) enum Event {
    /// The supervisor has asked for something.
    Request(Request),
    /// The supervisor has said something that is no request.
    Nonsense(String),
    /// The supervisor is gone.
    Gone,
    /// The machine has ended.
    Ended(MachineEnd),
}

/// Runs one machine on the sockets that this process was started with: waits for its description,
/// then serves the supervisor's requests until the machine or the supervisor ends.
#[must_use]
pub fn run(has_network: bool) -> ExitCode {
    let (events, incoming) = channel();
    let connected = connect(has_network).and_then(|(control, connections)| {
        listen(&control, events.clone())?;
        Ok((control, connections))
    });
    match connected {
        Ok((control, connections)) => serve(&control, connections, &events, &incoming),
        Err(error) => {
            eprintln!("smolvm-vmm: use the sockets of the supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn connect(has_network: bool) -> io::Result<(UnixStream, Connections)> {
    let network = has_network.then(|| inherited_socket(NETWORK_FD));
    let connections = Connections {
        agent: inherited_socket(AGENT_FD)?,
        console: inherited_socket(CONSOLE_FD)?,
        network: network.transpose()?,
    };
    Ok((inherited_socket(CONTROL_FD)?, connections))
}

fn serve(
    control: &UnixStream,
    connections: Connections,
    events: &Sender<Event>,
    incoming: &Receiver<Event>,
) -> ExitCode {
    let description = match incoming.recv() {
        Ok(Event::Request(Request::Boot(description))) => description,
        Ok(Event::Request(_) | Event::Nonsense(_)) => {
            say(control, &refusal("there is no machine yet"));
            return ExitCode::FAILURE;
        }
        _ => return ExitCode::SUCCESS,
    };
    let machine = match boot(&description, connections, events) {
        Ok(machine) => machine,
        Err(message) => {
            say(control, &Reply::Refused { message });
            return ExitCode::FAILURE;
        }
    };
    say(control, &Reply::Done);
    while let Ok(event) = incoming.recv() {
        match event {
            Event::Request(request) => say(control, &answer(&machine, &request)),
            Event::Nonsense(reason) => say(control, &Reply::Refused { message: reason }),
            Event::Ended(end) => {
                say(control, &Reply::Ended(end));
                break;
            }
            Event::Gone => break,
        }
    }
    ExitCode::SUCCESS
}

fn boot(
    description: &MachineDescription,
    connections: Connections,
    events: &Sender<Event>,
) -> Result<Machine, String> {
    let (ends, ended) = channel();
    let events = events.clone();
    let pass_on = move || {
        jail::confine_or_end(ThreadKind::Listener);
        if let Ok(end) = ended.recv() {
            // The main thread is there as long as the process.
            let _unheard = events.send(Event::Ended(end));
        }
    };
    // Started first: nothing can be started any more when the machine runs.
    thread::Builder::new()
        .name("end".to_owned())
        .spawn(pass_on)
        .map_err(|error| format!("start a thread: {error}"))?;
    Machine::start(description, connections, &ends).map_err(|error| chain(&error))
}

fn answer(machine: &Machine, request: &Request) -> Reply {
    match request {
        Request::Boot(_) => return refusal("there is a machine already"),
        Request::Pause => machine.pause(),
        Request::Resume => machine.resume(),
        Request::PowerButton => {
            if let Err(error) = machine.press_power_button() {
                return refusal(&format!("press the power button: {error}"));
            }
        }
        Request::RenewGenerationId => {
            if let Err(error) = machine.renew_generation_id() {
                return refusal(&format!("renew the generation ID: {error}"));
            }
        }
        Request::Stats => return Reply::Stats(machine.stats()),
    }
    Reply::Done
}

fn refusal(message: &str) -> Reply {
    Reply::Refused {
        message: message.to_owned(),
    }
}

/// Starts a thread that turns what the supervisor says into events.
fn listen(control: &UnixStream, events: Sender<Event>) -> io::Result<()> {
    let mut lines = BufReader::new(control.try_clone()?);
    let hear = move || {
        jail::confine_or_end(ThreadKind::Listener);
        loop {
            let event = next(&mut lines);
            let is_last = matches!(event, Event::Gone);
            if events.send(event).is_err() || is_last {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(hear)?;
    Ok(())
}

/// Waits for the next line of the supervisor's, and says what it is.
pub(crate) fn next(mut lines: impl BufRead) -> Event {
    let mut line = Vec::new();
    let read = lines
        .by_ref()
        .take(MAX_LINE_BYTES as u64)
        .read_until(b'\n', &mut line);
    match read {
        Ok(_) if line.ends_with(b"\n") => match serde_json::from_slice(&line) {
            Ok(request) => Event::Request(request),
            Err(error) => Event::Nonsense(format!("no request: {error}")),
        },
        // The end, a line that is too long, or a line that was cut.
        _ => Event::Gone,
    }
}

fn say(mut control: &UnixStream, reply: &Reply) {
    let Ok(mut line) = serde_json::to_vec(reply) else {
        return;
    };
    line.push(b'\n');
    // A supervisor that is gone needs no answer; its end is an event.
    let _unheard = control.write_all(&line);
}

/// Returns an error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
