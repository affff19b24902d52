//! What the process in new namespaces and the one outside of them say to each other while the former is made. A line each.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use rustix::process::Pid;

use super::{Namespaces, SandboxError};

/// Greatest length of a line.
const LINE_BYTES_MAX: u64 = 4096;

/// One end of the link between the two processes.
pub(super) struct Link(BufReader<UnixStream>);

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// There is a user namespace now, which is to get its ids.
    Maps,
    /// What came of that, or of all: empty if it is well.
    Result(String),
    /// The process that is going to serve has this id.
    Inside(Pid),
    /// We are here, go on.
    Begin,
}

impl Said {
    fn line(&self) -> String {
        match self {
            Self::Maps => "maps".to_owned(),
            Self::Result(text) => format!("result {}", text.replace('\n', " ")),
            Self::Inside(id) => format!("inside {}", id.as_raw_nonzero()),
            Self::Begin => "begin".to_owned(),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ') {
            Some(("result", text)) => Some(Self::Result(text.to_owned())),
            Some(("inside", id)) => id.parse().ok().and_then(Pid::from_raw).map(Self::Inside),
            None if line == "maps" => Some(Self::Maps),
            None if line == "begin" => Some(Self::Begin),
            _ => None,
        }
    }
}

impl Link {
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self(BufReader::new(one)), Self(BufReader::new(other))))
    }

    pub(super) fn say(&self, said: &Said) -> io::Result<()> {
        let mut stream = self.0.get_ref();
        stream.write_all(format!("{}\n", said.line()).as_bytes())
    }

    /// The next line; `None` if the other process has gone.
    pub(super) fn hear(&mut self) -> io::Result<Option<Said>> {
        let mut line = String::new();
        (&mut self.0).take(LINE_BYTES_MAX).read_line(&mut line)?;
        let Some(line) = line.strip_suffix('\n') else {
            return Ok(None);
        };
        let said = Said::parse(line);
        said.map(Some)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// An error if the other process has gone, or says something else.
    pub(super) fn expect_begin(&mut self) -> io::Result<()> {
        match self.hear()? {
            Some(Said::Begin) => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Outside: gives `namespaces` of `process` their ids if it asks for them. Returns what it says then.
    pub(super) fn listen(
        &mut self,
        namespaces: &Namespaces,
        process: Pid,
    ) -> io::Result<Option<Said>> {
        loop {
            match self.hear()? {
                Some(Said::Maps) => {
                    let written = namespaces.maps().map_or(Ok(()), |maps| maps.write(process));
                    self.say(&Said::Result(written.err().unwrap_or_default()))?;
                }
                other => return Ok(other),
            }
        }
    }

    /// In a new user namespace: has its ids written.
    pub(super) fn ask_for_maps(&mut self) -> Result<(), SandboxError> {
        let answer = self.say(&Said::Maps).and_then(|()| self.hear());
        match answer.map_err(SandboxError::Process)? {
            Some(Said::Result(text)) if text.is_empty() => Ok(()),
            Some(Said::Result(text)) => Err(SandboxError::Maps(text)),
            _ => Err(SandboxError::Process(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_as_it_was_meant() {
        let (one, mut other) = Link::pair().unwrap();
        let id = Pid::from_raw(7).unwrap();
        let texts = ["", "one and two"].map(|text| Said::Result(text.to_owned()));
        for said in [Said::Maps, Said::Inside(id), Said::Begin]
            .into_iter()
            .chain(texts)
        {
            one.say(&said).unwrap();
            assert_eq!(other.hear().unwrap(), Some(said));
        }
        one.say(&Said::Result("two\nlines".to_owned())).unwrap();
        assert_eq!(
            other.hear().unwrap(),
            Some(Said::Result("two lines".to_owned()))
        );
        one.say(&Said::Maps).unwrap();
        assert!(other.expect_begin().is_err());
        drop(one);
        assert_eq!(other.hear().unwrap(), None);
        assert!(other.expect_begin().is_err());
    }
}
