//! The host's end of a session, for tests: a yamux client that speaks the protocol.

#![allow(dead_code, reason = "each test binary uses its part of the fixture")]

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_bytes::ByteBuf;
use smolvm_agent::{Environment, serve};
use smolvm_protocol::message::{
    Attributes, Command, Control, Event, Exec, Exit, ExitReason, Refusal, RefusalCode, Request,
};
use smolvm_protocol::{Frame, FrameCodec, FrameKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::Framed;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

/// How long anything may take before a test fails; far longer than it does take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that may be on their way between host and agent.
const TRANSPORT_BYTES: usize = 64 * 1024;

type Opened = oneshot::Sender<yamux::Stream>;

/// A session with an agent.
pub(crate) struct Host {
    streams: mpsc::Sender<Opened>,
}

impl Host {
    /// Starts an agent in this process and connects to it.
    pub(crate) fn with_agent() -> Self {
        let (ours, theirs) = tokio::io::duplex(TRANSPORT_BYTES);
        let environment = Environment::of_ordinary_process();
        let reaping = environment.clone();
        tokio::spawn(async move { reaping.run().await });
        tokio::spawn(serve(theirs, environment));
        Self::over(ours)
    }

    /// Connects to an agent over `stream`.
    pub(crate) fn over<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = Connection::new(stream.compat(), Config::default(), Mode::Client);
        let (streams, requests) = mpsc::channel(1);
        tokio::spawn(drive(connection, requests));
        Self { streams }
    }

    /// Opens a stream and sends nothing.
    pub(crate) async fn open(&self) -> Operation {
        let (sender, opened) = oneshot::channel();
        self.streams.send(sender).await.expect("session is open");
        let stream = opened.await.expect("session is open");
        Operation(Framed::new(stream.compat(), FrameCodec))
    }

    /// Opens a stream and sends `request`.
    pub(crate) async fn start(&self, request: &Request) -> Operation {
        let mut operation = self.open().await;
        operation.send_message(request).await;
        operation
    }

    /// Starts a command.
    pub(crate) async fn start_exec(&self, exec: Exec) -> Operation {
        self.start(&Request::Exec(exec)).await
    }

    /// Runs a command to its end.
    pub(crate) async fn exec(&self, exec: Exec) -> Outcome {
        self.start_exec(exec).await.outcome().await
    }

    /// Runs a line of shell to its end.
    pub(crate) async fn shell(&self, script: &str) -> Outcome {
        self.exec(shell(script)).await
    }

    /// Sends a request that has one event for an answer.
    pub(crate) async fn ask(&self, request: &Request) -> Event {
        self.start(request).await.event().await
    }

    /// Writes a file and returns the answer.
    pub(crate) async fn send_input(&self, request: &Request, content: &[u8]) -> Event {
        let mut operation = self.start(request).await;
        operation.send_input(content).await;
        operation.event().await
    }

    /// Reads a file.
    pub(crate) async fn read_file(&self, path: &str) -> Result<(Attributes, Vec<u8>), Refusal> {
        let request = Request::ReadFile { path: bytes(path) };
        let mut operation = self.start(&request).await;
        match operation.event().await {
            Event::Attributes(attributes) => Ok((attributes, operation.content().await)),
            Event::Refused(refusal) => Err(refusal),
            event => panic!("unexpected answer: {event:?}"),
        }
    }
}

/// One stream.
pub(crate) struct Operation(pub(crate) Framed<Compat<yamux::Stream>, FrameCodec>);

impl Operation {
    /// Sends a request or a control message.
    pub(crate) async fn send_message<T: serde::Serialize>(&mut self, message: &T) {
        self.send(Frame::message(message).expect("encodable")).await;
    }

    pub(crate) async fn control(&mut self, control: Control) {
        self.send_message(&control).await;
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        self.0.send(frame).await.expect("stream is open");
    }

    /// Sends all input and its end.
    pub(crate) async fn send_input(&mut self, content: &[u8]) {
        for chunk in content.chunks(smolvm_protocol::MAX_DATA_BYTES) {
            let payload = Bytes::copy_from_slice(chunk);
            // A refused request need not be heard out.
            let _ = self.0.send(Frame::data(FrameKind::Input, payload)).await;
        }
        let _ = self.0.send(Frame::end()).await;
    }

    /// Returns the next frame, or `None` at the end of the stream.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let next = tokio::time::timeout(PATIENCE, self.0.next());
        let frame = next.await.expect("the agent answers in time")?;
        Some(frame.expect("the agent sends frames"))
    }

    /// Returns the next frame's event.
    pub(crate) async fn event(&mut self) -> Event {
        let frame = self.frame().await.expect("the stream goes on");
        frame.parse().expect("an event")
    }

    /// Collects data frames up to the end frame.
    pub(crate) async fn content(&mut self) -> Vec<u8> {
        let mut content = Vec::new();
        loop {
            let frame = self.frame().await.expect("the stream goes on");
            match frame.kind {
                FrameKind::End => return content,
                FrameKind::Output => content.extend_from_slice(&frame.payload),
                kind => panic!("unexpected {kind:?} frame"),
            }
        }
    }

    /// Reads output until it contains `text`, and returns it all.
    pub(crate) async fn output_until(&mut self, text: &str) -> String {
        let mut output = Vec::new();
        while !String::from_utf8_lossy(&output).contains(text) {
            let frame = self.frame().await.expect("the stream goes on");
            if frame.kind == FrameKind::Output {
                output.extend_from_slice(&frame.payload);
            } else if let Ok(Event::Exited(exit)) = frame.parse() {
                panic!("ended with {exit:?} after {output:?}");
            }
        }
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Collects what a command says until it ends.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let frame = self.frame().await.expect("a command has an end");
            match frame.kind {
                FrameKind::Output => outcome.stdout.extend_from_slice(&frame.payload),
                FrameKind::ErrorOutput => outcome.stderr.extend_from_slice(&frame.payload),
                FrameKind::Message => match frame.parse().expect("an event") {
                    Event::Started { pid } => outcome.pid = pid,
                    Event::Exited(exit) => {
                        outcome.exit = Some(exit);
                        return outcome;
                    }
                    Event::Refused(refusal) => {
                        outcome.refusal = Some(refusal);
                        return outcome;
                    }
                    event => panic!("unexpected event: {event:?}"),
                },
                kind => panic!("unexpected {kind:?} frame"),
            }
        }
    }
}

/// What became of a command.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) pid: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Option<Exit>,
    pub(crate) refusal: Option<Refusal>,
}

impl Outcome {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub(crate) fn reason(&self) -> ExitReason {
        match &self.exit {
            Some(exit) => exit.reason,
            None => panic!("refused: {:?}", self.refusal),
        }
    }

    pub(crate) fn refusal_code(&self) -> RefusalCode {
        self.refusal.as_ref().expect("a refusal").code
    }
}

/// Returns the request for a line of shell.
pub(crate) fn shell(script: &str) -> Exec {
    Exec::of(Command::Shell {
        script: bytes(script),
        login: false,
    })
}

/// Returns the request for a program and its arguments.
pub(crate) fn arguments(arguments: &[&str]) -> Exec {
    Exec::of(Command::Arguments(
        arguments.iter().map(|one| bytes(one)).collect(),
    ))
}

pub(crate) fn bytes(text: &str) -> ByteBuf {
    ByteBuf::from(text.as_bytes())
}

pub(crate) fn refusal_code(event: &Event) -> RefusalCode {
    match event {
        Event::Refused(refusal) => refusal.code,
        event => panic!("not refused: {event:?}"),
    }
}

/// Opens streams as they are asked for and keeps the session moving.
async fn drive<T>(mut connection: Connection<T>, mut requests: mpsc::Receiver<Opened>)
where
    T: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    let mut waiting: Option<Opened> = None;
    poll_fn(|context| {
        loop {
            if waiting.is_none()
                && let Poll::Ready(request) = requests.poll_recv(context)
            {
                match request {
                    Some(request) => waiting = Some(request),
                    None => return Poll::Ready(()),
                }
            }
            if waiting.is_some() {
                match connection.poll_new_outbound(context) {
                    Poll::Ready(Ok(stream)) => {
                        let _ = waiting.take().expect("checked").send(stream);
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            match connection.poll_next_inbound(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
