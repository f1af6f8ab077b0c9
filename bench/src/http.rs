//! The HTTP/1.1 (RFC 9112) of the network's measurements: as little as its two ends need.
//!
//! The path says how many bytes are meant: `GET /10` asks for ten, `POST /10` brings ten.

/// Returns a request's head.
#[must_use]
pub fn request_head(method: Method, bytes: u64) -> String {
    match method {
        Method::Get => format!("GET /{bytes} HTTP/1.1\r\nHost: bench\r\n\r\n"),
        Method::Post => {
            format!("POST /{bytes} HTTP/1.1\r\nHost: bench\r\nContent-Length: {bytes}\r\n\r\n")
        }
    }
}

/// Returns the head of the answer with so many bytes of content.
#[must_use]
pub fn response_head(bytes: u64) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It asks for bytes.
    Get,
    /// It brings bytes.
    Post,
}

/// Reads the first line of a request.
#[must_use]
pub fn parse_request_line(line: &str) -> Option<(Method, u64)> {
    let mut words = line.split(' ');
    let method = match words.next()? {
        "GET" => Method::Get,
        "POST" => Method::Post,
        _ => return None,
    };
    let bytes = words.next()?.strip_prefix('/')?.parse().ok()?;
    Some((method, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_says_what_it_was_made_from() {
        for (method, bytes) in [(Method::Get, 0), (Method::Post, 65_536)] {
            let head = request_head(method, bytes);
            let line = head.lines().next().expect("a line");
            assert_eq!(parse_request_line(line), Some((method, bytes)));
        }
    }
}
