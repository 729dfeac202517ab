//! Byte strings packed one after another, each with its length before it, so that no two lists of
//! them look alike; and the messages between the stand-in and the desk that are made of them.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::Asked;

/// No message is longer: `locked-sigs.inc` of a large world has some ten megabytes.
pub const LONGEST: usize = 256 << 20;

/// What the stand-in says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The first word of a connection.
    Ask(Asked),
    /// The real BitBake has run because the desk had no answer.
    Ran(Ran),
}

/// What the real BitBake gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// `None` when there was too much of it.
    pub stdout: Option<Vec<u8>>,
    pub stderr: Option<Vec<u8>>,
    /// `locked-sigs.inc`, when it was there.
    pub signatures: Option<Vec<u8>>,
}

/// What the desk says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This is none of the desk's business.
    Pass,
    /// The desk wants to know what the real BitBake gives.
    Run,
    Answer(Answer),
    /// What was given has been looked at.
    Noted,
}

/// What BitBake gave to this question before; it ended with status 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub signatures: Vec<u8>,
}

/// Packs byte strings.
#[derive(Clone, Debug, Default)]
pub struct Pack(Vec<u8>);

impl Pack {
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Pack {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn number(&mut self, number: u64) -> &mut Pack {
        self.bytes(&number.to_be_bytes())
    }

    fn maybe(&mut self, bytes: Option<&[u8]>) -> &mut Pack {
        self.number(bytes.is_some().into()).bytes(bytes.unwrap_or_default())
    }

    pub fn finish(&self) -> &[u8] {
        &self.0
    }
}

/// Takes byte strings out again, in the same order.
#[derive(Clone, Copy, Debug)]
pub struct Unpack<'a>(pub &'a [u8]);

impl<'a> Unpack<'a> {
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

impl Call {
    pub fn pack(&self) -> Vec<u8> {
        let mut pack = Pack::default();
        match self {
            Call::Ask(asked) => {
                pack.bytes(b"ask").bytes(asked.cwd.as_os_str().as_bytes());
                pack.number(asked.umask.into()).number(asked.joined.into());
                pack.number(asked.argv.len() as u64);
                for word in &asked.argv {
                    pack.bytes(word.as_bytes());
                }
                for (name, value) in &asked.environment {
                    pack.bytes(name.as_bytes()).bytes(value.as_bytes());
                }
            }
            Call::Ran(ran) => {
                let status = ran.status.map(i32::to_be_bytes);
                pack.bytes(b"ran").maybe(status.as_ref().map(|status| &status[..]));
                for bytes in [&ran.stdout, &ran.stderr, &ran.signatures] {
                    pack.maybe(bytes.as_deref());
                }
            }
        }
        pack.0
    }

    pub fn unpack(message: &[u8]) -> io::Result<Call> {
        let mut unpack = Unpack(message);
        let call = match unpack.bytes()? {
            b"ask" => {
                let cwd = unpack.text()?.into();
                let umask = u32::try_from(unpack.number()?).map_err(|_| damaged())?;
                let joined = unpack.number()? == 1;
                let words = unpack.number()?;
                let mut argv = Vec::new();
                for _ in 0..words {
                    argv.push(unpack.text()?);
                }
                let mut environment = Vec::new();
                while !unpack.is_empty() {
                    environment.push((unpack.text()?, unpack.text()?));
                }
                Call::Ask(Asked { argv, cwd, umask, joined, environment })
            }
            b"ran" => {
                let status = match unpack.maybe()? {
                    Some(status) => {
                        Some(i32::from_be_bytes(status.as_slice().try_into().map_err(|_| damaged())?))
                    }
                    None => None,
                };
                let [stdout, stderr, signatures] = [unpack.maybe()?, unpack.maybe()?, unpack.maybe()?];
                Call::Ran(Ran { status, stdout, stderr, signatures })
            }
            _ => return Err(damaged()),
        };
        if unpack.is_empty() { Ok(call) } else { Err(damaged()) }
    }
}

impl Reply {
    pub fn pack(&self) -> Vec<u8> {
        let mut pack = Pack::default();
        match self {
            Reply::Pass => pack.bytes(b"pass"),
            Reply::Run => pack.bytes(b"run"),
            Reply::Noted => pack.bytes(b"noted"),
            Reply::Answer(answer) => {
                pack.bytes(b"answer").bytes(&answer.stdout).bytes(&answer.stderr).bytes(&answer.signatures)
            }
        };
        pack.0
    }

    pub fn unpack(message: &[u8]) -> io::Result<Reply> {
        let mut unpack = Unpack(message);
        let reply = match unpack.bytes()? {
            b"pass" => Reply::Pass,
            b"run" => Reply::Run,
            b"noted" => Reply::Noted,
            b"answer" => {
                let mut next = || unpack.bytes().map(<[u8]>::to_vec);
                Reply::Answer(Answer { stdout: next()?, stderr: next()?, signatures: next()? })
            }
            _ => return Err(damaged()),
        };
        if unpack.is_empty() { Ok(reply) } else { Err(damaged()) }
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

    fn asked() -> Asked {
        Asked {
            argv: vec!["-S".into(), OsString::from_vec(vec![0xff, b'\n'])],
            cwd: "/b d".into(),
            umask: 0o22,
            joined: true,
            environment: vec![("A".into(), "".into()), ("B".into(), "x=y".into())],
        }
    }

    #[test]
    fn messages_come_back_the_same() {
        let ran = Ran { status: Some(-1), stdout: Some(vec![0]), stderr: None, signatures: Some(Vec::new()) };
        for call in [Call::Ask(asked()), Call::Ran(ran.clone()), Call::Ran(Ran { status: None, ..ran })] {
            assert_eq!(Call::unpack(&call.pack()).unwrap(), call);
        }
        let answer = Answer { stdout: b"o".to_vec(), stderr: Vec::new(), signatures: b"s".to_vec() };
        for reply in [Reply::Pass, Reply::Run, Reply::Noted, Reply::Answer(answer)] {
            let mut stream = Vec::new();
            send(&mut stream, &reply.pack()).unwrap();
            assert_eq!(Reply::unpack(&receive(&mut stream.as_slice()).unwrap()).unwrap(), reply);
        }
    }

    /// Layer code may send anything.
    #[test]
    fn no_part_of_a_message_is_taken_for_a_message() {
        for message in [
            Call::Ask(asked()).pack(),
            Call::Ran(Ran { status: None, stdout: None, stderr: None, signatures: None }).pack(),
        ] {
            for end in 0..message.len() {
                // An environment may end after any of its variables.
                if let Ok(Call::Ask(shorter)) = Call::unpack(&message[..end]) {
                    assert!(shorter.environment.len() < 2);
                } else {
                    assert!(Call::unpack(&message[..end]).is_err(), "{end} bytes");
                }
            }
            assert!(Call::unpack(&[message.as_slice(), b"x"].concat()).is_err());
        }
        let huge = [[0xff; 8].as_slice(), b"ask"].concat();
        assert!(Call::unpack(&huge).is_err());
        assert!(receive(&mut [0xff, 0xff, 0xff, 0xff, 1].as_slice()).is_err());
        assert!(receive(&mut [0, 0, 0, 9, 1].as_slice()).is_err());
    }

    #[test]
    fn packs_of_different_lists_differ() {
        let pack = |list: &[&str]| {
            list.iter().fold(Pack::default(), |mut pack, text| {
                pack.bytes(text.as_bytes());
                pack
            })
        };
        let lists: [&[&str]; 6] = [&["ab"], &["a", "b"], &["", "ab"], &["ab", ""], &[], &[""]];
        for (index, one) in lists.iter().enumerate() {
            for other in &lists[index + 1..] {
                assert_ne!(pack(one).finish(), pack(other).finish(), "{one:?} {other:?}");
            }
        }
    }
}
