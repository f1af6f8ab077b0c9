//! Files of a running sandbox's guest.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use serde_bytes::ByteBuf;
use smolvm_protocol::message::{Attributes, Event, Request, WriteFile};
use smolvm_protocol::{Frame, FrameError, FrameKind, MAX_DATA_BYTES};

use crate::Sandbox;
use crate::access::{AccessError, Connection};
use crate::exec::next_event;

/// Most entries of a directory that are taken from a guest; more than a person or a program reads.
const MAX_ENTRIES: usize = 1_000_000;

/// One entry of a guest's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Its name, in the guest's bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub attributes: Attributes,
}

/// A guest's file, or an archive of a tree, while it is read.
#[derive(Debug)]
pub struct FileReader {
    connection: Connection,
}

/// A guest's file, or an archive of a tree, while it is written.
#[derive(Debug)]
pub struct FileWriter {
    connection: Connection,
}

impl Sandbox {
    /// Opens a file of the guest for reading.
    ///
    /// # Errors
    ///
    /// When it does not exist, is a directory, or the sandbox cannot be reached.
    pub async fn read_file(&self, path: &[u8]) -> Result<(Attributes, FileReader), AccessError> {
        let mut connection = self
            .ask(&Request::ReadFile {
                path: ByteBuf::from(path),
            })
            .await?;
        match self.answer(&mut connection).await? {
            Event::Attributes(attributes) => Ok((attributes, FileReader { connection })),
            _ => Err(AccessError::Unexpected),
        }
    }

    /// Opens a file of the guest for writing. It takes its place when the writer is finished.
    ///
    /// # Errors
    ///
    /// When the sandbox cannot be reached; what the guest says comes with
    /// [`FileWriter::finish`].
    pub async fn write_file(&self, file: WriteFile) -> Result<FileWriter, AccessError> {
        Ok(FileWriter {
            connection: self.ask(&Request::WriteFile(file)).await?,
        })
    }

    /// Describes a file of the guest; what a symbolic link points to when `follow` is set.
    ///
    /// # Errors
    ///
    /// When it does not exist or the sandbox cannot be reached.
    pub async fn stat(&self, path: &[u8], follow: bool) -> Result<Attributes, AccessError> {
        let request = Request::Stat {
            path: ByteBuf::from(path),
            follow,
        };
        let mut connection = self.ask(&request).await?;
        match self.answer(&mut connection).await? {
            Event::Attributes(attributes) => Ok(attributes),
            _ => Err(AccessError::Unexpected),
        }
    }

    /// Lists a directory of the guest, by name.
    ///
    /// # Errors
    ///
    /// When it does not exist, is not a directory, or the sandbox cannot be reached.
    pub async fn list_directory(&self, path: &[u8]) -> Result<Vec<DirectoryEntry>, AccessError> {
        let mut connection = self
            .ask(&Request::List {
                path: ByteBuf::from(path),
            })
            .await?;
        let mut entries = Vec::new();
        loop {
            match self.answer(&mut connection).await? {
                Event::Entry { name, attributes } => {
                    if entries.len() == MAX_ENTRIES {
                        return Err(AccessError::Unexpected);
                    }
                    entries.push(DirectoryEntry {
                        name: name.into_vec(),
                        attributes,
                    });
                }
                Event::Done => break,
                _ => return Err(AccessError::Unexpected),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Makes a directory in the guest; with `parents` also those above it.
    ///
    /// # Errors
    ///
    /// When it exists already (unless `parents` is set) or the sandbox cannot be reached.
    pub async fn make_directory(
        &self,
        path: &[u8],
        mode: u32,
        parents: bool,
    ) -> Result<(), AccessError> {
        self.done(&Request::MakeDirectory {
            path: ByteBuf::from(path),
            mode,
            parents,
        })
        .await
    }

    /// Removes a file or directory of the guest; with `recursive` a directory that is not empty.
    ///
    /// # Errors
    ///
    /// When it does not exist or the sandbox cannot be reached.
    pub async fn remove_file(&self, path: &[u8], recursive: bool) -> Result<(), AccessError> {
        self.done(&Request::Remove {
            path: ByteBuf::from(path),
            recursive,
        })
        .await
    }

    /// Gives a file or directory of the guest another name on the same file system. What has
    /// that name already is replaced when `replace` is set; a directory only when it is empty.
    ///
    /// # Errors
    ///
    /// When it does not exist, the name is taken, or the sandbox cannot be reached.
    pub async fn move_file(
        &self,
        from: &[u8],
        to: &[u8],
        replace: bool,
    ) -> Result<(), AccessError> {
        self.done(&Request::Move {
            from: ByteBuf::from(from),
            to: ByteBuf::from(to),
            replace,
        })
        .await
    }

    /// Opens a tar archive of a file or directory of the guest.
    pub(crate) async fn read_tree(&self, path: &[u8]) -> Result<FileReader, AccessError> {
        let request = Request::ReadTree {
            path: ByteBuf::from(path),
        };
        Ok(FileReader {
            connection: self.ask(&request).await?,
        })
    }

    /// Opens a directory of the guest for a tar archive.
    pub(crate) async fn write_tree(&self, path: &[u8]) -> Result<FileWriter, AccessError> {
        let request = Request::WriteTree {
            path: ByteBuf::from(path),
        };
        Ok(FileWriter {
            connection: self.ask(&request).await?,
        })
    }

    pub(crate) async fn ask(&self, request: &Request) -> Result<Connection, AccessError> {
        let frame = Frame::message(request)?;
        let mut connection = self.access().open_stream().await?;
        connection.send(frame).await?;
        Ok(connection)
    }

    pub(crate) async fn answer(&self, connection: &mut Connection) -> Result<Event, AccessError> {
        match next_event(connection).await? {
            Some(Event::Refused(refusal)) => Err(AccessError::Refused(refusal)),
            Some(event) => Ok(event),
            None => Err(self.access().not_running().await),
        }
    }

    pub(crate) async fn done(&self, request: &Request) -> Result<(), AccessError> {
        let mut connection = self.ask(request).await?;
        match self.answer(&mut connection).await? {
            Event::Done => Ok(()),
            _ => Err(AccessError::Unexpected),
        }
    }
}

impl FileReader {
    /// Returns the next bytes; `None` when there are no more.
    ///
    /// # Errors
    ///
    /// When the file cannot be read to its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AccessError> {
        let frame = match self.connection.next().await {
            Some(Ok(frame)) => frame,
            Some(Err(FrameError::Io(_))) | None => return Err(AccessError::ConnectionEnded),
            Some(Err(error)) => return Err(error.into()),
        };
        match frame.kind {
            FrameKind::Output => Ok(Some(frame.payload)),
            FrameKind::End => Ok(None),
            FrameKind::Message => match frame.parse()? {
                Event::Refused(refusal) => Err(AccessError::Refused(refusal)),
                _ => Err(AccessError::Unexpected),
            },
            FrameKind::Input | FrameKind::ErrorOutput => Err(AccessError::Unexpected),
        }
    }
}

impl FileWriter {
    /// Writes the next bytes. Waits while the guest is slower.
    ///
    /// # Errors
    ///
    /// When the guest cannot take them; it then says why.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), AccessError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(MAX_DATA_BYTES));
            if self
                .connection
                .send(Frame::data(FrameKind::Input, piece))
                .await
                .is_err()
            {
                return Err(self.refusal().await);
            }
        }
        Ok(())
    }

    /// Says that all bytes are written, and waits until they are in their place.
    ///
    /// # Errors
    ///
    /// When the guest could not write them.
    pub async fn finish(mut self) -> Result<(), AccessError> {
        if self.connection.send(Frame::end()).await.is_err() {
            return Err(self.refusal().await);
        }
        match next_event(&mut self.connection).await? {
            Some(Event::Done) => Ok(()),
            Some(Event::Refused(refusal)) => Err(AccessError::Refused(refusal)),
            Some(_) => Err(AccessError::Unexpected),
            None => Err(AccessError::ConnectionEnded),
        }
    }

    /// Returns what the guest said before it stopped to listen.
    async fn refusal(&mut self) -> AccessError {
        match next_event(&mut self.connection).await {
            Ok(Some(Event::Refused(refusal))) => AccessError::Refused(refusal),
            Ok(Some(_)) => AccessError::Unexpected,
            Ok(None) => AccessError::ConnectionEnded,
            Err(error) => error,
        }
    }
}
