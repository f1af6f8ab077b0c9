//! The program in the guest: does what each line of its input says, and says when it is done; or
//! does what its argument says, and prints how long that has taken.
//!
//! It is linked statically, since one of its guests has nothing else but busybox; see
//! `network/machine.rs`.

#![forbid(unsafe_code)]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use smolvm_bench::http::{Method, request_head, response_head};
use smolvm_bench::workload::{Reply, Workload};
use smolvm_bench::{disk, dns};

/// How long nothing may happen before the measurement has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes written or read at once.
const PIECE_BYTES: usize = 64 * 1024;

fn main() -> io::Result<()> {
    if let Some(workload) = std::env::args().nth(1) {
        return timed(serde_json::from_str(&workload)?);
    }
    let mut held = Vec::new();
    say(&Reply::Done)?;
    for line in io::stdin().lines() {
        let reply = match serde_json::from_str(&line?) {
            Ok(workload) => run(workload, &mut held),
            Err(error) => Err(error.into()),
        };
        say(&match reply {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed {
                error: error.to_string(),
            },
        })?;
    }
    Ok(())
}

/// Does one thing, and prints how many seconds it has taken.
fn timed(workload: Workload) -> io::Result<()> {
    let begun = Instant::now();
    run(workload, &mut Vec::new())?;
    writeln!(io::stdout(), "{}", begun.elapsed().as_secs_f64())
}

fn say(reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    io::stdout().write_all(&line)?;
    io::stdout().flush()
}

fn run(workload: Workload, held: &mut Vec<TcpStream>) -> io::Result<()> {
    match workload {
        Workload::Upload { to, bytes } => post(&mut connect(to)?, bytes)?,
        Workload::Download { from, bytes } => get(&mut connect(from)?, bytes)?,
        Workload::Connect { to, count } => {
            for _ in 0..count {
                drop(connect(to)?);
            }
        }
        Workload::Request {
            to,
            count,
            is_kept_alive,
        } => requests(to, count, is_kept_alive)?,
        Workload::LookUp { server, count } => look_ups(server, count)?,
        Workload::Hold { to, count, bytes } => {
            for _ in 0..count {
                let mut stream = connect(to)?;
                post(&mut stream, bytes)?;
                get(&mut stream, bytes)?;
                held.push(stream);
            }
        }
        Workload::Release => held.clear(),
        Workload::WriteFile {
            path,
            pattern,
            bytes,
        } => disk::write(&path, pattern, bytes)?,
        Workload::ReadFile {
            path,
            pattern,
            bytes,
        } => disk::read(&path, pattern, bytes)?,
    }
    Ok(())
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn requests(to: SocketAddr, count: u32, is_kept_alive: bool) -> io::Result<()> {
    let mut stream = connect(to)?;
    get(&mut stream, 0)?;
    for _ in 1..count {
        if !is_kept_alive {
            stream = connect(to)?;
        }
        get(&mut stream, 0)?;
    }
    Ok(())
}

/// Asks for bytes, and reads them.
fn get(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    stream.write_all(request_head(Method::Get, bytes).as_bytes())?;
    receive(stream, bytes)
}

/// Brings bytes, and reads the answer.
fn post(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    stream.write_all(request_head(Method::Post, bytes).as_bytes())?;
    let piece = [0; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        stream.write_all(&piece[..length])?;
        left -= u64::try_from(length).unwrap_or(left);
    }
    receive(stream, 0)
}

/// Reads an answer with so many bytes of content.
fn receive(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let expected = response_head(bytes);
    let mut head = vec![0; expected.len()];
    stream.read_exact(&mut head)?;
    if head != expected.as_bytes() {
        return Err(io::Error::other("another answer than expected"));
    }
    let mut piece = [0; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(u64::try_from(length).unwrap_or(left));
    }
    Ok(())
}

fn look_ups(server: SocketAddr, count: u32) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 512];
    for number in (0..=u16::MAX).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        socket.send(&dns::query(number))?;
        let length = socket.recv(&mut buffer)?;
        if !dns::is_answer(&buffer[..length], number) {
            return Err(io::Error::other("no address in the answer"));
        }
    }
    Ok(())
}
