//! A machine without a guest: its agent is a script inside this process.
//!
//! It exists so that the life cycle can be tested quickly and its failures provoked at will. It
//! speaks the real protocol over the real multiplexer. Its commands are `true`, `false`, `echo`
//! (its arguments and a line break), `cat` (its input), `sleep` (until killed), `stuck`
//! (never, and reads nothing) and `crash` (ends the VMM at the first input).

use std::io;

use bytes::BytesMut;
use futures::future::BoxFuture;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use smolvm_protocol::message::{
    AgentHello, BootTimes, Command, Control, Event, Exec, Exit, ExitReason, NETWORK_CAPABILITY,
    Refusal, RefusalCode, Request,
};
use smolvm_protocol::vmm::MachineStats;
use smolvm_protocol::{Frame, FrameCodec, FrameError, FrameKind, GENERATION, OLDEST_GENERATION};
use tokio::io::{AsyncRead, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;
use tokio_util::codec::Framed;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};

use super::{BootError, BootPlan, Capabilities, Engine, EnginePlan, Machine, MachineExit, Stream};
use crate::multiplexer;

/// Bytes the fake's connections hold, as a socket would.
const PIPE_BYTES: usize = 64 * 1024;

/// How a fake guest behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Script {
    /// Its agent answers at once.
    #[default]
    Ready,
    /// Its agent never answers.
    Silent,
    /// Its kernel panics at boot.
    Panicking,
    /// Its VMM ends at once.
    Dying,
    /// Its agent speaks only generations of the far future.
    FromTheFuture,
    /// Its agent ignores the request to shut down.
    Stubborn,
    /// Its agent breaks the connection off before it answers, and the machine goes on.
    HangingUp,
}

/// The engine `fake`.
#[derive(Clone, Copy, Debug)]
pub struct Fake;

impl Engine for Fake {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            has_process: false,
            has_console: true,
            can_record: false,
        }
    }

    fn boot<'a>(
        &'a self,
        plan: &'a BootPlan,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>, BootError>> {
        let EnginePlan::Fake(script) = plan.engine else {
            unreachable!("engine_of hands a plan only to the engine that it names");
        };
        let has_network = plan.network.is_some();
        async move { Ok(Box::new(start(script, has_network)) as Box<dyn Machine>) }.boxed()
    }
}

fn start(script: Script, has_network: bool) -> FakeMachine {
    // Its guest never sends a frame, and reads none.
    let (network, guest_network) = has_network.then(|| tokio::io::duplex(PIPE_BYTES)).unzip();
    let (agent, guest) = tokio::io::duplex(PIPE_BYTES);
    let (console, mut guest_console) = tokio::io::duplex(PIPE_BYTES);
    let (exit_sender, exit) = watch::channel(None);
    let guest_exit = exit_sender.clone();
    tokio::spawn(async move {
        let exit = match script {
            Script::Dying => vmm_ended("exit status: 1"),
            Script::Panicking => {
                let line = b"[    0.1] Kernel panic - not syncing: scripted\n";
                // Nobody reading the console does not change how the machine ends.
                let _unread = guest_console.write_all(line).await;
                MachineExit::Reset
            }
            Script::HangingUp => {
                drop(guest);
                killed(&guest_exit).await
            }
            _ => {
                // A machine that is killed takes its connections with it.
                tokio::select! {
                    exit = serve(guest, script) => exit,
                    exit = killed(&guest_exit) => exit,
                }
            }
        };
        drop((guest_console, guest_network));
        guest_exit.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(exit);
            is_first
        });
    });
    FakeMachine {
        agent: Some(agent),
        console: Some(console),
        network,
        exit_sender,
        exit,
    }
}

/// Waits until the machine is killed.
async fn killed(exit: &watch::Sender<Option<MachineExit>>) -> MachineExit {
    let mut exit = exit.subscribe();
    // The sender outlives the wait: it is borrowed.
    let _killed = exit.wait_for(Option::is_some).await;
    vmm_ended("killed")
}

fn vmm_ended(status: &str) -> MachineExit {
    MachineExit::VmmEnded {
        status: status.to_owned(),
        messages: Vec::new(),
    }
}

struct FakeMachine {
    agent: Option<DuplexStream>,
    console: Option<DuplexStream>,
    network: Option<DuplexStream>,
    exit_sender: watch::Sender<Option<MachineExit>>,
    exit: watch::Receiver<Option<MachineExit>>,
}

impl Machine for FakeMachine {
    fn take_agent_stream(&mut self) -> Option<Box<dyn Stream>> {
        self.agent
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Stream>)
    }

    fn take_console(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        self.console
            .take()
            .map(|stream| Box::new(stream) as Box<dyn AsyncRead + Send + Unpin>)
    }

    fn take_network(&mut self) -> Option<Box<dyn Stream>> {
        self.network
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Stream>)
    }

    fn vmm_pid(&self) -> Option<u32> {
        None
    }

    fn stats(&mut self) -> BoxFuture<'_, io::Result<Option<MachineStats>>> {
        futures::future::ready(Ok(None)).boxed()
    }

    fn press_power_button(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.exit_sender.send_replace(Some(MachineExit::PoweredOff));
        async { Ok(()) }.boxed()
    }

    fn pause(&mut self) -> BoxFuture<'_, io::Result<()>> {
        // Its supervisor lets nobody in while it is paused, and a script does nothing by itself.
        std::future::ready(Ok(())).boxed()
    }

    fn resume(&mut self) -> BoxFuture<'_, io::Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn resume_soon(&mut self) {}

    fn wait(&mut self) -> BoxFuture<'_, MachineExit> {
        async {
            match self.exit.wait_for(Option::is_some).await {
                Ok(exit) => exit.clone().unwrap_or_else(|| vmm_ended("unknown")),
                Err(_) => vmm_ended("unknown"),
            }
        }
        .boxed()
    }

    fn kill(&mut self) {
        self.exit_sender.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert_with(|| vmm_ended("signal: 9 (SIGKILL)"));
            is_first
        });
    }
}

type OperationStream = Framed<Compat<yamux::Stream>, FrameCodec>;

/// Plays the agent until it is asked to shut down or the host is gone.
async fn serve(stream: DuplexStream, script: Script) -> MachineExit {
    let mut connection =
        yamux::Connection::new(stream.compat(), multiplexer::config(), yamux::Mode::Server);
    let (end, mut ending) = watch::channel(None);
    loop {
        let next = std::future::poll_fn(|context| connection.poll_next_inbound(context));
        tokio::select! {
            stream = next => match stream {
                Some(Ok(stream)) => {
                    let operation = Framed::new(stream.compat(), FrameCodec);
                    tokio::spawn(operate(operation, script, end.clone()));
                }
                _ => return vmm_ended("connection lost"),
            },
            Ok(exit) = ending.wait_for(Option::is_some) => {
                return exit.clone().unwrap_or(MachineExit::PoweredOff);
            }
        }
    }
}

type End = watch::Sender<Option<MachineExit>>;

async fn operate(mut stream: OperationStream, script: Script, end: End) {
    // The host going away in the middle of an operation is not this side's failure.
    let _host_gone = answer(&mut stream, script, &end).await;
    let _closed_already = stream.close().await;
}

async fn answer(stream: &mut OperationStream, script: Script, end: &End) -> Result<(), FrameError> {
    let Some(first) = stream.next().await else {
        return Ok(());
    };
    match first?.parse::<Request>() {
        Ok(Request::Hello(_)) if script == Script::Silent => std::future::pending().await,
        Ok(Request::Hello(_)) => send(stream, &Event::Hello(hello(script))).await,
        Ok(Request::Shutdown) if script == Script::Stubborn => send(stream, &Event::Done).await,
        Ok(Request::Shutdown) => {
            send(stream, &Event::Done).await?;
            end.send_replace(Some(MachineExit::PoweredOff));
            Ok(())
        }
        Ok(Request::Exec(exec)) => execute(stream, &exec, end).await,
        Ok(_) => {
            refuse(
                stream,
                RefusalCode::UnknownRequest,
                "the fake guest cannot do that",
            )
            .await
        }
        Err(_) => refuse(stream, RefusalCode::UnknownRequest, "unknown request").await,
    }
}

fn hello(script: Script) -> AgentHello {
    let is_from_the_future = script == Script::FromTheFuture;
    let offset = if is_from_the_future { 1_000_000 } else { 0 };
    AgentHello {
        generation: GENERATION + offset,
        oldest_generation: OLDEST_GENERATION + offset,
        version: "fake".to_owned(),
        // It has no interface, and nothing to trust with.
        capabilities: vec![NETWORK_CAPABILITY.to_owned()],
        kernel_release: "fake".to_owned(),
        boot: BootTimes::default(),
    }
}

async fn execute(stream: &mut OperationStream, exec: &Exec, end: &End) -> Result<(), FrameError> {
    let Command::Arguments(arguments) = &exec.command else {
        return refuse(
            stream,
            RefusalCode::InvalidInput,
            "the fake guest has no shell",
        )
        .await;
    };
    let words: Vec<&[u8]> = arguments
        .iter()
        .map(|argument| argument.as_slice())
        .collect();
    let reason = match words.split_first() {
        Some((&b"true", _)) => started(stream)
            .await
            .map(|()| ExitReason::Exited { code: 0 })?,
        Some((&b"false", _)) => started(stream)
            .await
            .map(|()| ExitReason::Exited { code: 1 })?,
        Some((&b"echo", rest)) => {
            started(stream).await?;
            let mut line = BytesMut::from(&rest.join(&b' ')[..]);
            line.extend_from_slice(b"\n");
            stream
                .send(Frame::data(FrameKind::Output, line.freeze()))
                .await?;
            ExitReason::Exited { code: 0 }
        }
        Some((&b"stuck", _)) => {
            started(stream).await?;
            return std::future::pending().await;
        }
        Some((&b"crash", _)) => {
            started(stream).await?;
            let _any_input = stream.next().await;
            end.send_replace(Some(vmm_ended("signal: 11 (SIGSEGV)")));
            return std::future::pending().await;
        }
        // Without input, it reads what /dev/null has.
        Some((&b"cat", _)) if !exec.stdin => started(stream)
            .await
            .map(|()| ExitReason::Exited { code: 0 })?,
        Some((&b"cat", _)) => copy_input(stream).await?,
        Some((&b"sleep", _)) => sleep(stream, exec.timeout_ms).await?,
        _ => {
            let message = "command not found";
            return refuse(stream, RefusalCode::CommandNotFound, message).await;
        }
    };
    send(
        stream,
        &Event::Exited(Exit {
            reason,
            elapsed_ms: 0,
        }),
    )
    .await
}

async fn started(stream: &mut OperationStream) -> Result<(), FrameError> {
    send(stream, &Event::Started { pid: 2 }).await
}

async fn copy_input(stream: &mut OperationStream) -> Result<ExitReason, FrameError> {
    started(stream).await?;
    while let Some(frame) = stream.next().await {
        match frame? {
            Frame {
                kind: FrameKind::Input,
                payload,
            } => {
                stream.send(Frame::data(FrameKind::Output, payload)).await?;
            }
            Frame {
                kind: FrameKind::End,
                ..
            } => return Ok(ExitReason::Exited { code: 0 }),
            frame => match frame.parse()? {
                Control::Kill => return Ok(ExitReason::Killed),
                Control::Signal { number } => return Ok(ExitReason::Signalled { number }),
                Control::Resize(_) => {}
            },
        }
    }
    Ok(ExitReason::Killed)
}

/// Runs until it is killed, signalled, or its time is up; its input is not read.
async fn sleep(
    stream: &mut OperationStream,
    timeout_ms: Option<u64>,
) -> Result<ExitReason, FrameError> {
    started(stream).await?;
    let timeout = std::time::Duration::from_millis(timeout_ms.unwrap_or(u64::from(u32::MAX)));
    let killed = async {
        while let Some(frame) = stream.next().await {
            match frame?.parse() {
                Ok(Control::Kill) => break,
                Ok(Control::Signal { number }) => return Ok(ExitReason::Signalled { number }),
                Ok(Control::Resize(_)) | Err(_) => {}
            }
        }
        Ok(ExitReason::Killed)
    };
    tokio::time::timeout(timeout, killed)
        .await
        .unwrap_or(Ok(ExitReason::TimedOut))
}

async fn send(stream: &mut OperationStream, event: &Event) -> Result<(), FrameError> {
    stream.send(Frame::message(event)?).await
}

async fn refuse(
    stream: &mut OperationStream,
    code: RefusalCode,
    message: &str,
) -> Result<(), FrameError> {
    send(
        stream,
        &Event::Refused(Refusal {
            code,
            message: message.to_owned(),
        }),
    )
    .await
}
