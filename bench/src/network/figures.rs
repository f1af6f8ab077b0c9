//! What is measured on each way out, and what is promised of it.

use smolvm_bench::workload::Workload;

use super::path::Path;
use super::server::Servers;
use super::{ROUNDS, Used};
use crate::report::Report;
use crate::statistics::Samples;

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    Upload,
    Download,
    Connect,
    KeptAlive,
    NewConnections,
    Datagrams,
    LookUps,
}

impl Figure {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Upload,
        Self::Download,
        Self::Connect,
        Self::KeptAlive,
        Self::NewConnections,
        Self::Datagrams,
        Self::LookUps,
    ];

    /// Returns what the guest is told, to measure it once.
    pub(crate) fn workload(self, path: Path, servers: Servers) -> Workload {
        let http = (path.host(), servers.http).into();
        let count = self.count();
        let bytes = u64::from(count) * 1024 * 1024;
        match self {
            Self::Upload => Workload::Upload { to: http, bytes },
            Self::Download => Workload::Download { from: http, bytes },
            Self::Connect => Workload::Connect { to: http, count },
            Self::KeptAlive => Workload::Request {
                to: http,
                count,
                is_kept_alive: true,
            },
            Self::NewConnections => Workload::Request {
                to: http,
                count,
                is_kept_alive: false,
            },
            Self::Datagrams => Workload::LookUp {
                server: (path.host(), servers.dns).into(),
                count,
            },
            Self::LookUps => Workload::LookUp {
                server: path.resolver(servers.dns),
                count,
            },
        }
    }

    /// Returns how many of its unit one measurement has: what takes about half a second in a guest
    /// under software emulation.
    const fn count(self) -> u32 {
        match self {
            Self::Upload | Self::Download => 24,
            Self::Connect | Self::NewConnections => 100,
            Self::KeptAlive | Self::Datagrams | Self::LookUps => 300,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Upload => "guest -> host",
            Self::Download => "host -> guest",
            Self::Connect => "connections opened",
            Self::KeptAlive => "requests, kept alive",
            Self::NewConnections => "requests, a connection each",
            Self::Datagrams => "datagrams and their answers",
            Self::LookUps => "DNS lookups",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Upload | Self::Download => "MiB/s",
            _ => "/s",
        }
    }

    /// Whether it is about bytes. Of all else nothing is promised: it is a matter of a moment's wait
    /// for another process, which a busy host decides.
    const fn has_bytes(self) -> bool {
        matches!(self, Self::Upload | Self::Download)
    }
}

/// Everything measured, by figure and path.
#[derive(Debug, Default)]
pub(crate) struct Figures([[Cell; Path::ALL.len()]; Figure::ALL.len()]);

#[derive(Debug, Default)]
struct Cell {
    /// Seconds that one of its unit takes.
    time: Samples,
    qemu_cpu_seconds: f64,
    back_end_cpu_seconds: f64,
}

impl Figures {
    /// Adds a measurement.
    pub(crate) fn push(&mut self, figure: Figure, path: Path, used: Used) {
        let cell = &mut self.0[figure as usize][path.index()];
        cell.time.push(used.time / figure.count());
        cell.qemu_cpu_seconds += used.qemu_cpu_seconds;
        cell.back_end_cpu_seconds += used.back_end_cpu_seconds;
    }

    /// Tells all of it.
    pub(crate) fn tell(&self, report: &mut Report) {
        for figure in Figure::ALL {
            self.tell_time(figure, report);
            if figure.has_bytes() {
                self.tell_cpu(figure, report);
            }
            self.tell_cpu_ratios(figure, report);
        }
    }

    fn cell(&self, figure: Figure, path: Path) -> &Cell {
        &self.0[figure as usize][path.index()]
    }

    fn tell_time(&self, figure: Figure, report: &mut Report) {
        let name = figure.name();
        for path in Path::ALL {
            let line = format!("network, {name}: {}", path.name());
            report.rate(&line, &self.cell(figure, path).time, figure.unit());
        }
        let ratio = |path, other| {
            self.cell(figure, path).time.median() / self.cell(figure, other).time.median()
        };
        let line = format!("time of {name}, gateway / slirp");
        let beside_slirp = ratio(Path::Gateway, Path::Slirp);
        match figure.has_bytes() {
            true => report.promise(&line, beside_slirp, 1.0),
            false => report.ratio(&line, beside_slirp),
        }
        report.ratio(
            &format!("time of {name}, gateway / passt"),
            ratio(Path::Gateway, Path::Passt),
        );
        report.ratio(
            &format!("time of {name}, 1,000 rules / open"),
            ratio(Path::Restricted, Path::Gateway),
        );
    }

    fn tell_cpu(&self, figure: Figure, report: &mut Report) {
        let mib = f64::from(figure.count() * ROUNDS);
        for path in Path::ALL {
            let name = format!(
                "network, {}, CPU with QEMU's: {}",
                figure.name(),
                path.name()
            );
            let seconds = self.cell(figure, path).cpu_seconds();
            report.value(&name, seconds * 1024.0 / mib, "s/GiB");
        }
    }

    fn tell_cpu_ratios(&self, figure: Figure, report: &mut Report) {
        let cpu = |path| self.cell(figure, path).cpu_seconds();
        for other in [Path::Slirp, Path::Passt] {
            let name = format!("CPU of {}, gateway / {}", figure.name(), other.name());
            report.ratio(&name, cpu(Path::Gateway) / cpu(other));
        }
        let alone = |path| self.cell(figure, path).back_end_cpu_seconds;
        let name = format!("gateway's CPU of {}, 1,000 rules / open", figure.name());
        report.ratio(&name, alone(Path::Restricted) / alone(Path::Gateway));
    }
}

impl Cell {
    /// Returns what all processes took together.
    fn cpu_seconds(&self) -> f64 {
        self.qemu_cpu_seconds + self.back_end_cpu_seconds
    }
}
