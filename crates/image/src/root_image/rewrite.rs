//! Passing a file tree on as a tar stream: without what the recipe drops, with what it adds.
//!
//! Everything else keeps its type, mode, owner, time, link target, device number and extended
//! attributes. Content is streamed, never held.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, Entry, EntryType, Header};

use crate::command::hear_out;
use crate::progress::Progress;
use crate::root_image::recipe::Recipe;

/// Where tar streams keep extended attributes (`SCHILY.xattr.NAME`, star(5)).
const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// How many bytes pass between two reports of progress.
const PROGRESS_BYTES: u64 = 4 << 20;

/// Modification time of added files: 2025-01-01. Fixed, so that equal recipes add equal files.
const ADDED_MTIME: u64 = 1_735_689_600;

/// Why a tree cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The incoming stream is damaged or ended.
    #[error("the tree cannot be read")]
    Read(#[source] io::Error),
    /// The outgoing stream failed.
    #[error("the tree cannot be written, at {}", path.display())]
    Write {
        /// The entry being written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A kept file is a hard link to a dropped one.
    #[error("{} is a link to {}, which the recipe drops", path.display(), target.display())]
    LinkToDropped {
        /// The link.
        path: PathBuf,
        /// What it links to.
        target: PathBuf,
    },
    /// An entry has a type that a root file system cannot have.
    #[error("{} has the unknown type {entry_type:?}", path.display())]
    UnknownType {
        /// The entry.
        path: PathBuf,
        /// Its type in the stream.
        entry_type: u8,
    },
}

/// A file or directory to add that the recipe cannot know.
pub(crate) struct ExtraFile<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: u32,
    /// What is in it; nothing makes it a directory.
    pub(crate) content: Option<&'a str>,
}

/// Copies the tree in `input` to `output` as `recipe` and `extra` say.
pub(crate) fn rewrite<W: Write>(
    input: impl Read,
    output: W,
    recipe: &Recipe,
    extra: &[ExtraFile<'_>],
    progress: &dyn Progress,
) -> Result<W, RewriteError> {
    let mut archive = Archive::new(input);
    let mut tree = Tree::new(output);
    let (mut done_bytes, mut reported_bytes) = (0, 0);
    for entry in archive.entries().map_err(RewriteError::Read)? {
        let entry = entry.map_err(RewriteError::Read)?;
        done_bytes += entry.size();
        let path = relative(&entry.path().map_err(RewriteError::Read)?);
        if path == Path::new(".") {
            // The writer of the image makes the root directory.
            continue;
        }
        let is_replaced = extra.iter().any(|file| Path::new(file.path) == path)
            || recipe.files.iter().any(|file| Path::new(file.path) == path);
        if is_replaced || is_dropped(recipe, &path, entry.header().entry_type()) {
            tree.dropped.insert(path);
        } else {
            tree.copy(&path, entry)?;
        }
        if done_bytes - reported_bytes >= PROGRESS_BYTES {
            progress.advanced(done_bytes);
            reported_bytes = done_bytes;
        }
    }
    hear_out(archive.into_inner()).map_err(RewriteError::Read)?;
    for path in recipe.directories {
        tree.add(path, EntryType::Directory, 0o755, "")?;
    }
    for file in recipe.files {
        tree.add(file.path, EntryType::Regular, file.mode, file.content)?;
    }
    for file in extra {
        tree.add_extra(file)?;
    }
    tree.finish()
}

/// Returns `path` without a leading `./` or `/`, or `.` for the root itself.
pub(crate) fn relative(path: &Path) -> PathBuf {
    let plain = |component: &std::path::Component<'_>| {
        matches!(
            component,
            std::path::Component::Normal(_) | std::path::Component::ParentDir
        )
    };
    let path: PathBuf = path.components().filter(plain).collect();
    if path.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        path
    }
}

fn is_dropped(recipe: &Recipe, path: &Path, entry_type: EntryType) -> bool {
    let is_emptied = || {
        recipe
            .emptied
            .iter()
            .any(|emptied| path.starts_with(emptied))
    };
    let is_removed = || {
        recipe
            .removed
            .iter()
            .any(|removed| path == Path::new(removed))
    };
    // Directories stay: programs expect /var/log/apt and the like.
    is_removed() || (entry_type != EntryType::Directory && is_emptied())
}

/// A tree that is passed on as a tar stream.
pub(crate) struct Tree<W: Write> {
    builder: Builder<W>,
    /// What is not passed on, so that links to it are noticed.
    dropped: BTreeSet<PathBuf>,
}

impl<W: Write> Tree<W> {
    /// Returns an empty tree that goes to `output`.
    pub(crate) fn new(output: W) -> Self {
        Self {
            builder: Builder::new(output),
            dropped: BTreeSet::new(),
        }
    }

    /// Passes everything in the archive `tar` on.
    pub(crate) fn copy_all(&mut self, tar: &[u8]) -> Result<(), RewriteError> {
        let mut archive = Archive::new(tar);
        for entry in archive.entries().map_err(RewriteError::Read)? {
            let entry = entry.map_err(RewriteError::Read)?;
            let path = relative(&entry.path().map_err(RewriteError::Read)?);
            if path != Path::new(".") {
                self.copy(&path, entry)?;
            }
        }
        Ok(())
    }

    /// Adds a file or directory.
    pub(crate) fn add_extra(&mut self, file: &ExtraFile<'_>) -> Result<(), RewriteError> {
        let kind = file
            .content
            .map_or(EntryType::Directory, |_| EntryType::Regular);
        self.add(file.path, kind, file.mode, file.content.unwrap_or_default())
    }

    /// Ends the stream and returns where it went.
    pub(crate) fn finish(self) -> Result<W, RewriteError> {
        let end = |source| RewriteError::Write {
            path: PathBuf::new(),
            source,
        };
        let mut output = self.builder.into_inner().map_err(end)?;
        output.flush().map_err(end)?;
        Ok(output)
    }

    fn copy(&mut self, path: &Path, mut entry: Entry<'_, impl Read>) -> Result<(), RewriteError> {
        let write_error = |source| RewriteError::Write {
            path: path.to_owned(),
            source,
        };
        let entry_type = entry.header().entry_type();
        let target = entry
            .link_name()
            .map_err(RewriteError::Read)?
            .map(PathBuf::from);
        let xattrs = xattrs(&mut entry)?;
        if !xattrs.is_empty() {
            let named = xattrs
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_slice()));
            self.builder
                .append_pax_extensions(named)
                .map_err(write_error)?;
        }
        let mut header = plain_header(&entry).map_err(RewriteError::Read)?;
        match (entry_type, target) {
            (EntryType::Link, Some(target)) => {
                let target = relative(&target);
                if self.dropped.contains(&target) {
                    return Err(RewriteError::LinkToDropped {
                        path: path.to_owned(),
                        target,
                    });
                }
                self.builder
                    .append_link(&mut header, path, target)
                    .map_err(write_error)
            }
            (EntryType::Symlink, Some(target)) => self
                .builder
                .append_link(&mut header, path, target)
                .map_err(write_error),
            (
                EntryType::Regular
                | EntryType::Continuous
                | EntryType::Directory
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo,
                _,
            ) => self
                .builder
                .append_data(&mut header, path, entry)
                .map_err(write_error),
            _ => Err(RewriteError::UnknownType {
                path: path.to_owned(),
                entry_type: entry_type.as_byte(),
            }),
        }
    }

    fn add(
        &mut self,
        path: &str,
        entry_type: EntryType,
        mode: u32,
        content: &str,
    ) -> Result<(), RewriteError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry_type);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(ADDED_MTIME);
        header.set_size(content.len() as u64);
        self.builder
            .append_data(&mut header, path, content.as_bytes())
            .map_err(|source| RewriteError::Write {
                path: PathBuf::from(path),
                source,
            })
    }
}

/// Returns a GNU header with the metadata of `entry`; name and link target are set by the
/// builder, which knows how to write long ones.
fn plain_header(entry: &Entry<'_, impl Read>) -> io::Result<Header> {
    let from = entry.header();
    let mut header = Header::new_gnu();
    let is_file = from.entry_type().is_file() || from.entry_type() == EntryType::Continuous;
    header.set_entry_type(if is_file {
        EntryType::Regular
    } else {
        from.entry_type()
    });
    header.set_mode(from.mode()?);
    header.set_uid(from.uid()?);
    header.set_gid(from.gid()?);
    header.set_mtime(from.mtime()?);
    header.set_size(if is_file { entry.size() } else { 0 });
    if from.entry_type().is_character_special() || from.entry_type().is_block_special() {
        header.set_device_major(from.device_major()?.unwrap_or_default())?;
        header.set_device_minor(from.device_minor()?.unwrap_or_default())?;
    }
    Ok(header)
}

fn xattrs(entry: &mut Entry<'_, impl Read>) -> Result<Vec<(String, Vec<u8>)>, RewriteError> {
    let mut xattrs = Vec::new();
    let Some(extensions) = entry.pax_extensions().map_err(RewriteError::Read)? else {
        return Ok(xattrs);
    };
    for extension in extensions {
        let extension = extension.map_err(RewriteError::Read)?;
        if let Ok(name) = extension.key()
            && name.starts_with(XATTR_PREFIX)
        {
            xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(xattrs)
}
