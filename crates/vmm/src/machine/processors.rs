//! The processors' threads: running the guest, standing still, and ending with it.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use smolvm_protocol::vmm::MachineEnd;
use vmm_sys_util::signal::{Killable as _, SIGRTMIN, register_signal_handler};

use super::platform::Platform;
use crate::devices::power::PowerRequest;
use crate::jail;
use crate::jail::filters::ThreadKind;
use crate::kvm::{Exit, Vcpu};

/// How often a processor that is to stand still is called again: a signal that comes just before
/// it enters the guest does not keep it out.
const CALL_AGAIN: Duration = Duration::from_millis(1);

/// The processors of a machine.
#[derive(Debug)]
pub(crate) struct Processors {
    threads: Vec<JoinHandle<()>>,
    order: Arc<Order>,
}

/// What the processors are told to do.
#[derive(Debug, Default)]
struct Order {
    /// Guards what is asked of them and how many have obeyed. Held for a look only.
    state: Mutex<OrderState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct OrderState {
    is_paused: bool,
    /// Processors that stand still.
    standing: usize,
    /// Processors that have ended, and stand for ever.
    ended: usize,
}

impl Order {
    fn state(&self) -> MutexGuard<'_, OrderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands still while that is asked for.
    fn obey(&self) {
        let mut state = self.state();
        if !state.is_paused {
            return;
        }
        state.standing += 1;
        self.changed.notify_all();
        while state.is_paused {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.standing -= 1;
    }
}

impl Processors {
    /// Starts a thread for each of `vcpus`. What becomes of the machine goes to `ends`.
    pub(crate) fn start(
        vcpus: Vec<Vcpu>,
        platform: &Arc<Platform>,
        ends: &Sender<MachineEnd>,
    ) -> io::Result<Self> {
        register_signal_handler(SIGRTMIN(), interrupt)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        let order = Arc::new(Order::default());
        let mut threads = Vec::new();
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (platform, ends, order) = (platform.clone(), ends.clone(), order.clone());
            let thread = Builder::new().name(format!("vcpu-{index}"));
            threads.push(thread.spawn(move || {
                jail::confine_or_end(ThreadKind::Processor);
                let end = run(vcpu, &platform, &order);
                // Nobody listens when the process ends.
                let _unheard = ends.send(end);
                order.state().ended += 1;
                order.changed.notify_all();
            })?);
        }
        Ok(Self { threads, order })
    }

    /// Holds all processors still. Returns when they stand.
    pub(crate) fn pause(&self) {
        let mut state = self.order.state();
        state.is_paused = true;
        while state.standing + state.ended < self.threads.len() {
            drop(state);
            for thread in &self.threads {
                // One that has ended needs no call.
                let _ended = thread.kill(SIGRTMIN());
            }
            let waited = self
                .order
                .changed
                .wait_timeout(self.order.state(), CALL_AGAIN);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.order.state().is_paused = false;
        self.order.changed.notify_all();
    }
}

/// Does nothing: that it came is what takes a processor out of the guest.
extern "C" fn interrupt(
    _number: libc::c_int,
    _info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
}

/// Runs a processor until the machine ends.
fn run(mut vcpu: Vcpu, platform: &Platform, order: &Order) -> MachineEnd {
    loop {
        let request = match vcpu.run() {
            Exit::PortRead(port, data) => {
                platform.read_port(port, data);
                None
            }
            Exit::PortWrite(port, data) => platform.write_port(port, data),
            Exit::MmioRead(address, data) => {
                platform.read_register(address, data);
                None
            }
            Exit::MmioWrite(address, data) => {
                platform.write_register(address, data);
                None
            }
            Exit::Interrupted => {
                platform.count_other_exit();
                order.obey();
                None
            }
            Exit::Reset => {
                // A kernel that resets on purpose may do it like this, one that is lost does, too.
                eprintln!("smolvm-vmm: triple fault, {}", vcpu.describe());
                Some(PowerRequest::Reset)
            }
            Exit::Failed(what) => {
                let state = vcpu.describe();
                return MachineEnd::Failed {
                    message: format!("KVM cannot go on: {what}, {state}"),
                };
            }
        };
        match request {
            None => {}
            Some(PowerRequest::Off) => return MachineEnd::PoweredOff,
            Some(PowerRequest::Reset) => return MachineEnd::Reset,
        }
    }
}
