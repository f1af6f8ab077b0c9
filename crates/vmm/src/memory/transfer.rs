//! Moving bytes between guest memory and descriptors, without a copy of ours in between.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use vm_memory::VolatileSlice;

/// Buffers that one system call takes at most (limits.h, `IOV_MAX`).
const MAX_BUFFERS: usize = 1024;

/// Buffers of guest memory as the kernel wants them, valid as long as `slices` is borrowed.
fn vectors(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    slices
        .iter()
        .take(MAX_BUFFERS)
        .map(|slice| libc::iovec {
            // The guards only tell of mappings made on demand, and these are permanent.
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        })
        .collect()
}

fn count(vectors: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(vectors.len()).expect("MAX_BUFFERS is small")
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    Ok(offset.try_into().map_err(|_| io::ErrorKind::InvalidInput)?)
}

fn outcome(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Reads from a file at `offset` into guest memory. Returns how many bytes came (preadv(2)).
pub(crate) fn read_file_at(
    file: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let vectors = vectors(slices);
    let offset = file_offset(offset)?;
    // SAFETY: each vector is a range of guest memory that `slices` keeps mapped during the call,
    // and nobody relies on what is in guest memory.
    outcome(unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count(&vectors), offset) })
}

/// Writes guest memory to a file at `offset`. Returns how many bytes went (pwritev(2)).
pub(crate) fn write_file_at(
    file: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let vectors = vectors(slices);
    let offset = file_offset(offset)?;
    // SAFETY: each vector is a range of guest memory that `slices` keeps mapped during the call.
    outcome(unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count(&vectors), offset) })
}

/// Reads from a stream into guest memory. Returns how many bytes came, 0 at its end (readv(2)).
pub(crate) fn receive(stream: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let vectors = vectors(slices);
    // SAFETY: as for `read_file_at`.
    outcome(unsafe { libc::readv(stream.as_raw_fd(), vectors.as_ptr(), count(&vectors)) })
}

/// Writes guest memory to a stream. Returns how many bytes went (writev(2)).
pub(crate) fn send(stream: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let vectors = vectors(slices);
    // SAFETY: as for `write_file_at`.
    outcome(unsafe { libc::writev(stream.as_raw_fd(), vectors.as_ptr(), count(&vectors)) })
}
