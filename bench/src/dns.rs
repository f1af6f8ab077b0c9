//! The DNS (RFC 1035 §4.1) of the network's measurements: questions for addresses, and answers
//! that are all the same.

/// Bytes of a message's header.
const HEADER_BYTES: usize = 12;

/// Type A and class IN.
const QUESTION_END: [u8; 4] = [0, 1, 0, 1];

/// The domain of all names that are asked for; one of examples (RFC 2606).
pub const DOMAIN: &str = "example.com";

/// A name that points to the question's, type A, class IN, 60 seconds, and an address of four
/// bytes. It is nobody's in particular but public, as those of private networks are withheld.
const ANSWER: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4];

/// Returns the question for the address of the name with this number.
#[must_use]
pub fn query(number: u16) -> Vec<u8> {
    // Recursion is desired; there is one question.
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message[..2].copy_from_slice(&number.to_be_bytes());
    for label in format!("host{number}.{DOMAIN}").split('.') {
        message.push(u8::try_from(label.len()).expect("labels of these names are short"));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(QUESTION_END);
    message
}

/// Returns the answer to a question, or nothing if it is not one.
#[must_use]
pub fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let labels = query.get(HEADER_BYTES..)?;
    let mut end = 0;
    while *labels.get(end)? != 0 {
        end += 1 + usize::from(labels[end]);
    }
    let question = labels.get(..end + 1 + QUESTION_END.len())?;
    // A response, recursion desired and available; one question, one answer.
    let mut message = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    message.extend(question);
    message.extend(ANSWER);
    Some(message)
}

/// Whether `message` answers the question with this number, and has an address.
#[must_use]
pub fn is_answer(message: &[u8], number: u16) -> bool {
    message.starts_with(&number.to_be_bytes())
        && message.get(6..8) == Some(&[0, 1])
        && message.windows(4).any(|bytes| ANSWER.ends_with(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_to_its_question_alone() {
        let message = answer(&query(513)).expect("a question");
        assert!(is_answer(&message, 513));
        assert!(!is_answer(&message, 514));
        assert!(!is_answer(&query(513), 513));
    }

    #[test]
    fn question_that_is_cut_has_no_answer() {
        let query = query(7);
        assert_eq!(answer(&query[..query.len() - 1]), None);
    }
}
