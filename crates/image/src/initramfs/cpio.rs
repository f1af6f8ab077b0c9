//! A writer of cpio archives in the "newc" format, as the kernel unpacks them.
//!
//! Format: Linux Documentation/driver-api/early-userspace/buffer-format.rst, cpio(5) "New ASCII
//! Format". Each entry is a header of 8-digit hexadecimal fields, the name with its NUL, and the
//! content, the latter two padded to four bytes. Times are zero and inode numbers count up, so
//! equal entries give equal archives.

use std::io::{self, Write};

const MAGIC: &str = "070701";

/// File types of `mode` (inode(7)).
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;
const TYPE_FILE: u32 = 0o100_000;

/// Name of the last entry.
const TRAILER: &str = "TRAILER!!!";

/// Headers, names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

pub(super) struct CpioWriter<W> {
    writer: W,
    inode: u32,
}

#[derive(Clone, Copy)]
struct Meta {
    mode: u32,
    links: u32,
    device: (u32, u32),
}

impl<W: Write> CpioWriter<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, inode: 0 }
    }

    pub(super) fn directory(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        let mode = TYPE_DIRECTORY | permissions;
        self.entry(
            name,
            Meta {
                mode,
                links: 2,
                device: (0, 0),
            },
            &[],
        )
    }

    pub(super) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let mode = TYPE_FILE | permissions;
        self.entry(
            name,
            Meta {
                mode,
                links: 1,
                device: (0, 0),
            },
            content,
        )
    }

    pub(super) fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        let mode = TYPE_CHARACTER_DEVICE | permissions;
        self.entry(
            name,
            Meta {
                mode,
                links: 1,
                device: (major, minor),
            },
            &[],
        )
    }

    /// Writes the trailer and returns the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry(
            TRAILER,
            Meta {
                mode: 0,
                links: 1,
                device: (0, 0),
            },
            &[],
        )?;
        Ok(self.writer)
    }

    fn entry(&mut self, name: &str, meta: Meta, content: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        if name != TRAILER {
            self.inode += 1;
        }
        // c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_devmajor, c_devminor,
        // c_rdevmajor, c_rdevminor, c_namesize, c_check.
        let (major, minor) = meta.device;
        let inode = self.inode;
        let fields = [
            inode, meta.mode, 0, 0, meta.links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        let mut header = String::from(MAGIC);
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.writer.write_all(header.as_bytes())?;
        self.writer.write_all(name.as_bytes())?;
        self.writer.write_all(&[0])?;
        self.pad(header.len() + name.len() + 1)?;
        self.writer.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        let missing = length.next_multiple_of(ALIGNMENT) - length;
        self.writer.write_all(&[0; ALIGNMENT][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_header_of_the_format() {
        let mut cpio = CpioWriter::new(Vec::new());
        cpio.file("ab", 0o644, b"xyz").unwrap();
        let bytes = cpio.finish().unwrap();
        let header = "0707010000000100\
                      0081a400000000000000000000000100000000000000030000000000000000\
                      0000000000000000000000030000000";
        assert!(
            bytes.starts_with(header.as_bytes()),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(
            &bytes[110..120],
            b"ab\0\0\0\0xyz\0",
            "name and content are padded"
        );
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }
}
