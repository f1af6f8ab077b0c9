//! The operations of the protocol, one file each.
//!
//! [`answer`] reads the request of a stream, runs its verb and sees to it that the host gets an
//! end in any case. To add an operation: a variant in `smolvm_protocol::message::Request`, its
//! name in [`REQUEST_NAMES`], a file here and a line in [`run`].

mod attach_job;
mod connect;
mod exec;
mod find_owners;
mod hello;
mod list;
mod list_jobs;
mod make_directory;
mod move_file;
mod path;
mod read_file;
mod read_tree;
mod remove;
mod remove_job;
mod settle;
mod shutdown;
mod start_job;
mod stat;
mod write_file;
mod write_tree;

use std::sync::Arc;

use smolvm_protocol::message::{Event, RefusalCode, Request};
use smolvm_protocol::{Frame, FrameKind};

use crate::conversation::{Conversation, Failure};
use crate::refusal;
use crate::session::Environment;

/// Names of the operations as they are on the wire.
const REQUEST_NAMES: [&str; 19] = [
    "hello",
    "exec",
    "read_file",
    "write_file",
    "stat",
    "list",
    "make_directory",
    "remove",
    "read_tree",
    "write_tree",
    "move",
    "start_job",
    "attach_job",
    "list_jobs",
    "remove_job",
    "connect",
    "find_owners",
    "settle",
    "shutdown",
];

/// Serves one stream from its request to its end.
pub(crate) async fn answer(mut conversation: Conversation, environment: Arc<Environment>) {
    let request = match conversation.incoming.next_in_time().await {
        Ok(frame) => decode(&frame),
        Err(failure) => Err(failure),
    };
    let result = match request {
        Ok(request) => run(request, conversation, &environment).await,
        Err(failure) => Err((failure, Some(conversation))),
    };
    if let Err((Failure::Refused(refusal), Some(mut conversation))) = result
        && conversation
            .outgoing
            .send_event(&Event::Refused(refusal))
            .await
            .is_ok()
    {
        conversation.finish().await;
    }
}

/// How a verb ends: the stream is finished, or failed and handed back where it can still be used.
type Ending = Result<(), (Failure, Option<Conversation>)>;

async fn run(
    request: Request,
    mut conversation: Conversation,
    environment: &Arc<Environment>,
) -> Ending {
    if environment.is_shutting_down() {
        let refusal = refusal::refused(RefusalCode::ShuttingDown, "the guest is shutting down");
        return Err((refusal.into(), Some(conversation)));
    }
    let host = &mut conversation;
    let result = match request {
        Request::Hello(hello) => hello::run(host, &hello, environment).await,
        Request::Exec(exec) => exec::run(host, exec, environment).await,
        Request::ReadFile { path } => read_file::run(host, path).await,
        Request::WriteFile(file) => write_file::run(host, file).await,
        Request::Stat { path, follow } => stat::run(host, path, follow).await,
        Request::List { path } => list::run(host, path).await,
        Request::MakeDirectory {
            path,
            mode,
            parents,
        } => make_directory::run(host, path, mode, parents).await,
        Request::Remove { path, recursive } => remove::run(host, path, recursive).await,
        Request::ReadTree { path } => read_tree::run(host, path).await,
        Request::WriteTree { path } => write_tree::run(host, path).await,
        Request::Move { from, to, replace } => move_file::run(host, from, to, replace).await,
        Request::StartJob(job) => start_job::run(host, job, environment).await,
        Request::AttachJob { id, cursor } => attach_job::run(host, &id, cursor, environment).await,
        Request::ListJobs => list_jobs::run(host, environment).await,
        Request::RemoveJob { id } => remove_job::run(host, &id, environment).await,
        Request::Connect(target) => return connect::run(conversation, &target).await,
        Request::FindOwners => find_owners::run(host, environment).await,
        Request::Settle => settle::run(host, environment).await,
        Request::Shutdown => shutdown::run(host, environment).await,
    };
    match result {
        Ok(()) => {
            conversation.finish().await;
            Ok(())
        }
        Err(failure) => Err((failure, Some(conversation))),
    }
}

fn decode(frame: &Frame) -> Result<Request, Failure> {
    frame.parse().map_err(|error| {
        let name = variant_name(frame);
        match name {
            Some(name) if !REQUEST_NAMES.contains(&name) => refusal::refused(
                RefusalCode::UnknownRequest,
                "this agent does not know the operation",
            ),
            _ => refusal::malformed(&error.to_string()),
        }
        .into()
    })
}

/// Returns the name of the operation that `frame` asks for, known or not.
///
/// MessagePack puts it first: alone as a string, or as the only key of a map (fixmap `0x81`,
/// fixstr `0xa0..=0xbf`, str 8 `0xd9`; MessagePack specification, "Formats").
fn variant_name(frame: &Frame) -> Option<&str> {
    if frame.kind != FrameKind::Message {
        return None;
    }
    let bytes: &[u8] = &frame.payload;
    let text = bytes.strip_prefix(&[0x81]).unwrap_or(bytes);
    let (length, rest) = match text {
        [marker @ 0xa0..=0xbf, rest @ ..] => (usize::from(marker & 0x1f), rest),
        [0xd9, length, rest @ ..] => (usize::from(*length), rest),
        _ => return None,
    };
    std::str::from_utf8(rest.get(..length)?).ok()
}
