//! Byte strings packed one after another, each with its length before it, so that no two lists of
//! them look alike; and the messages between the shim and the cache server that are made of them.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::sys::signal::Signal;

use agent_process::ExitReason;

use super::Invocation;

/// No message is longer: `locked-sigs.inc` of a large world has some ten megabytes.
pub const LONGEST: usize = 256 << 20;

/// What BitBake gave. Only the agent makes one, from a BitBake that it started itself: what the shim sends is
/// a query and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitbakeOutcome {
    /// [`ExitReason::Exited`] or [`ExitReason::Signalled`].
    pub end: ExitReason,
    pub stdout: Vec<u8>,
    /// Empty when both streams were one.
    pub stderr: Vec<u8>,
    /// `locked-sigs.inc`, when it was there.
    pub signatures: Option<Vec<u8>>,
}

/// What the cache server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This is none of the cache server's business.
    Pass,
    Outcome(BitbakeOutcome),
}

/// What BitBake gave to this query before; it ended with status 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub signatures: Vec<u8>,
}

/// Packs byte strings.
#[derive(Clone, Debug, Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Encoder {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn number(&mut self, number: u64) -> &mut Encoder {
        self.bytes(&number.to_be_bytes())
    }

    fn maybe(&mut self, bytes: Option<&[u8]>) -> &mut Encoder {
        self.number(bytes.is_some().into()).bytes(bytes.unwrap_or_default())
    }

    pub fn finish(&self) -> &[u8] {
        &self.0
    }
}

/// Takes byte strings out again, in the same order.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    pub fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let (length, rest) = self.0.split_at_checked(8).ok_or_else(damaged)?;
        let length = length.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let length = usize::try_from(length).map_err(|_| damaged())?;
        let (bytes, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub fn number(&mut self) -> io::Result<u64> {
        let bytes: [u8; 8] = self.bytes()?.try_into().map_err(|_| damaged())?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn maybe(&mut self) -> io::Result<Option<Vec<u8>>> {
        let is_some = self.number()? == 1;
        let bytes = self.bytes()?;
        Ok(is_some.then(|| bytes.to_vec()))
    }

    fn text(&mut self) -> io::Result<OsString> {
        Ok(OsString::from_vec(self.bytes()?.to_vec()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a message that makes no sense")
}

impl Invocation {
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.bytes(b"ask").bytes(self.cwd.as_os_str().as_bytes());
        encoder.number(self.umask.into()).number(self.joined.into());
        encoder.number(self.argv.len() as u64);
        for word in &self.argv {
            encoder.bytes(word.as_bytes());
        }
        for (name, value) in &self.environment {
            encoder.bytes(name.as_bytes()).bytes(value.as_bytes());
        }
        encoder.0
    }

    pub fn decode(message: &[u8]) -> io::Result<Invocation> {
        let mut decoder = Decoder(message);
        if decoder.bytes()? != b"ask" {
            return Err(damaged());
        }
        let cwd = decoder.text()?.into();
        let umask = u32::try_from(decoder.number()?).map_err(|_| damaged())?;
        let joined = decoder.number()? == 1;
        let words = decoder.number()?;
        let mut argv = Vec::new();
        for _ in 0..words {
            argv.push(decoder.text()?);
        }
        let mut environment = Vec::new();
        while !decoder.is_empty() {
            environment.push((decoder.text()?, decoder.text()?));
        }
        Ok(Invocation { argv, cwd, umask, joined, environment })
    }
}

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        match self {
            Reply::Pass => {
                encoder.bytes(b"pass");
            }
            Reply::Outcome(outcome) => {
                let (word, number) = match outcome.end {
                    ExitReason::Exited(status) => (b"exited", status),
                    ExitReason::Signalled(number) => (b"signal", number),
                    ExitReason::Cancelled | ExitReason::TimedOut | ExitReason::Stalled(_) => {
                        (b"signal", Signal::SIGTERM as i32)
                    }
                };
                encoder
                    .bytes(word)
                    .bytes(&number.to_be_bytes())
                    .bytes(&outcome.stdout)
                    .bytes(&outcome.stderr);
                encoder.maybe(outcome.signatures.as_deref());
            }
        }
        encoder.0
    }

    pub fn decode(message: &[u8]) -> io::Result<Reply> {
        let mut decoder = Decoder(message);
        let word = decoder.bytes()?;
        let reply = if word == b"pass" {
            Reply::Pass
        } else {
            let number = i32::from_be_bytes(decoder.bytes()?.try_into().map_err(|_| damaged())?);
            let end = match word {
                b"exited" => ExitReason::Exited(number),
                b"signal" => ExitReason::Signalled(number),
                _ => return Err(damaged()),
            };
            let [stdout, stderr] = [decoder.bytes()?.to_vec(), decoder.bytes()?.to_vec()];
            Reply::Outcome(BitbakeOutcome { end, stdout, stderr, signatures: decoder.maybe()? })
        };
        if decoder.is_empty() { Ok(reply) } else { Err(damaged()) }
    }
}

/// Sends a message, its length first.
pub fn send(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    to.write_all(&length_of(message)?)?;
    to.write_all(message)?;
    to.flush()
}

/// Takes the next message.
pub fn receive(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = length_from(length)?;
    let mut message = Vec::new();
    // Memory grows with what comes and not with what is promised.
    from.take(length as u64).read_to_end(&mut message)?;
    if message.len() == length { Ok(message) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// The length of a message as it is sent before it.
pub fn length_of(message: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(message.len()).ok().filter(|length| *length as usize <= LONGEST);
    length.map(u32::to_be_bytes).ok_or_else(damaged)
}

/// The other way round.
pub fn length_from(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(bytes) as usize;
    if length <= LONGEST { Ok(length) } else { Err(damaged()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn invocation() -> Invocation {
        Invocation {
            argv: vec!["-S".into(), OsString::from_vec(vec![0xff, b'\n'])],
            cwd: "/b d".into(),
            umask: 0o22,
            joined: true,
            environment: vec![("A".into(), "".into()), ("B".into(), "x=y".into())],
        }
    }

    fn outcome(end: ExitReason) -> BitbakeOutcome {
        BitbakeOutcome { end, stdout: b"o".to_vec(), stderr: Vec::new(), signatures: Some(Vec::new()) }
    }

    #[test]
    fn messages_come_back_the_same() {
        assert_eq!(Invocation::decode(&invocation().encode()).unwrap(), invocation());
        let killed = BitbakeOutcome { signatures: None, ..outcome(ExitReason::Signalled(9)) };
        for reply in [Reply::Pass, Reply::Outcome(outcome(ExitReason::Exited(255))), Reply::Outcome(killed)] {
            let mut stream = Vec::new();
            send(&mut stream, &reply.encode()).unwrap();
            assert_eq!(Reply::decode(&receive(&mut stream.as_slice()).unwrap()).unwrap(), reply);
        }
    }

    /// Layer code may send anything, and no message but a query means anything.
    #[test]
    fn no_part_of_a_message_is_taken_for_a_message() {
        let message = invocation().encode();
        for end in 0..message.len() {
            // An environment may end after any of its variables.
            if let Ok(shorter) = Invocation::decode(&message[..end]) {
                assert!(shorter.environment.len() < 2);
            }
        }
        let reply = Reply::Outcome(outcome(ExitReason::Exited(0))).encode();
        for end in 0..reply.len() {
            assert!(Reply::decode(&reply[..end]).is_err(), "{end} bytes");
        }
        assert!(Invocation::decode(&reply).is_err());
        assert!(Reply::decode(&[reply.as_slice(), b"x"].concat()).is_err());
        assert!(Invocation::decode(&[message.as_slice(), b"x"].concat()).is_err());
        let huge = [[0xff; 8].as_slice(), b"ask"].concat();
        assert!(Invocation::decode(&huge).is_err());
        assert!(receive(&mut [0xff, 0xff, 0xff, 0xff, 1].as_slice()).is_err());
        assert!(receive(&mut [0, 0, 0, 9, 1].as_slice()).is_err());
    }

    #[test]
    fn packs_of_different_lists_differ() {
        let encoder = |list: &[&str]| {
            list.iter().fold(Encoder::default(), |mut encoder, text| {
                encoder.bytes(text.as_bytes());
                encoder
            })
        };
        let lists: [&[&str]; 6] = [&["ab"], &["a", "b"], &["", "ab"], &["ab", ""], &[], &[""]];
        for (index, one) in lists.iter().enumerate() {
            for other in &lists[index + 1..] {
                assert_ne!(encoder(one).finish(), encoder(other).finish(), "{one:?} {other:?}");
            }
        }
    }
}
