//! Where words go: standard output for results, standard error for the rest, colour where it is wanted.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};

use crate::error::Failure;

/// What a verb writes with.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// Colour on standard output.
    pub colour: bool,
    /// Colour on standard error.
    pub colour_err: bool,
    /// Standard error is a terminal, so lines may be redrawn.
    pub live: bool,
    /// Somebody can answer a question.
    pub can_ask: bool,
    /// Say less.
    pub quiet: bool,
    /// Say more.
    pub verbose: bool,
    /// Say nothing: a test goes by what is done.
    #[cfg(test)]
    pub(super) silent: bool,
}

impl Ui {
    /// Looks at the terminal and the flags; `NO_COLOR` and `CLICOLOR_FORCE` are obeyed.
    pub fn new(quiet: bool, verbose: bool) -> Self {
        let wants = |stream: anstream::ColorChoice| !matches!(stream, anstream::ColorChoice::Never);
        Self {
            colour: wants(anstream::AutoStream::choice(&io::stdout())),
            colour_err: wants(anstream::AutoStream::choice(&io::stderr())),
            live: io::stderr().is_terminal(),
            can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
            quiet,
            verbose,
            #[cfg(test)]
            silent: false,
        }
    }

    #[cfg(test)]
    pub(super) fn silent() -> Self {
        Self { silent: true, ..Self::new(true, false) }
    }

    /// Writes a result to standard output; a reader that went away is no failure.
    pub fn out(self, text: &str) {
        #[cfg(test)]
        if self.silent {
            return;
        }
        let mut stdout = io::stdout().lock();
        drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
    }

    /// Writes a result and a line end.
    pub fn line(self, text: &str) {
        self.out(&format!("{text}\n"));
    }

    /// Writes to standard error what people may want to know, unless asked to be quiet.
    pub fn note(self, text: &str) {
        if !self.quiet {
            drop(writeln!(io::stderr().lock(), "{text}"));
        }
    }

    /// Writes a warning to standard error, always.
    pub fn warn(self, text: &str) {
        #[cfg(test)]
        if self.silent {
            return;
        }
        let head = self.paint_err(AnsiColor::Yellow.on_default().bold(), "warning:");
        drop(writeln!(io::stderr().lock(), "{head} {text}"));
    }

    /// Writes a failure with its hints to standard error.
    pub fn failure(self, failure: &Failure) {
        let mut stderr = io::stderr().lock();
        if !failure.message.is_empty() {
            let head = self.paint_err(AnsiColor::Red.on_default().bold(), "error:");
            drop(writeln!(stderr, "{head} {}", failure.message.trim_end()));
        }
        for hint in &failure.hints {
            let head = self.paint_err(AnsiColor::Cyan.on_default().bold(), "hint:");
            drop(writeln!(stderr, "{head} {hint}"));
        }
    }

    /// Asks a question that only `yes` answers.
    pub fn confirm(self, question: &str) -> io::Result<bool> {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question} Only `yes` goes on: ")?;
        stderr.flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(answer.trim() == "yes")
    }

    fn paint_err(self, style: Style, text: &str) -> String {
        if self.colour_err { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}
