//! ACPI tables: how the kernel learns of processors, interrupts and devices.
//!
//! ```text
//!   RSDP ─> XSDT ─┬─> FADT ─> DSDT   devices: power button, generation ID, serial port, virtio
//!                 └─> MADT           processors and interrupt controllers
//! ```
//!
//! The machine is "hardware-reduced" (ACPI 6.5 §4.1): it has none of a PC's old timers and
//! interrupt controllers for the kernel to look for.

use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, Package,
    Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::layout;
use crate::memory::Memory;

const OEM_ID: [u8; 6] = *b"SMOLVM";
const OEM_TABLE_ID: [u8; 8] = *b"SMOLVM  ";
const OEM_REVISION: u32 = 1;

/// Revision of the DSDT from which integers have 64 bits (ACPI 6.5 §5.2.11.1).
const DSDT_REVISION: u8 = 6;

/// Length of a table's header (ACPI 6.5 §5.2.6).
const HEADER_BYTES: u32 = 36;

/// Tables start at addresses that are multiples of this.
const ALIGNMENT: u64 = 16;

/// The sleep type that means "off" to our sleep register; the DSDT tells it to the kernel.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;

/// What to write to the reset register.
pub(crate) const RESET_VALUE: u8 = 1;

/// There is no VGA, and no real-time clock in CMOS: bits 2 and 5 of the FADT's IA-PC boot architecture
/// flags (ACPI 6.5, table 5.11). A kernel that is not told waits three seconds for the clock's answer.
const NO_VGA_NO_CLOCK: u16 = 1 << 2 | 1 << 5;

/// Says that a button has been pressed (ACPI 6.5 §5.6.6, device object notifications).
const BUTTON_PRESSED: u8 = 0x80;

/// Says that the generation ID has changed (Microsoft, "Virtual Machine Generation ID", 2012).
const GENERATION_CHANGED: u8 = 0x80;

/// Writes the tables of a machine and returns where the first one is.
///
/// # Errors
///
/// When the memory is smaller than where the tables go.
pub(crate) fn write(
    memory: &Memory,
    vcpus: u8,
    virtio_devices: usize,
) -> Result<u64, GuestMemoryError> {
    let mut tables = Tables {
        memory,
        next: layout::ACPI_TABLES,
    };
    // The first one is written last, and its place is where kernels look.
    let first = tables.next;
    tables.next += ALIGNMENT * 4;
    let dsdt = tables.add(&dsdt(virtio_devices))?;
    let fadt = tables.add(&bytes(&fadt(dsdt)))?;
    let madt = tables.add(&bytes(&madt(vcpus)))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.add(&bytes(&xsdt))?;
    memory.write_slice(&bytes(&Rsdp::new(OEM_ID, xsdt)), GuestAddress(first))?;
    Ok(first)
}

struct Tables<'a> {
    memory: &'a Memory,
    next: u64,
}

impl Tables<'_> {
    fn add(&mut self, table: &[u8]) -> Result<u64, GuestMemoryError> {
        let address = self.next;
        self.memory.write_slice(table, GuestAddress(address))?;
        self.next = (address + table.len() as u64).next_multiple_of(ALIGNMENT);
        Ok(address)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> impl Aml {
    let register = |port: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            port.into(),
        )
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // The button is a device of the DSDT.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.sleep_control_reg = register(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = register(layout::SLEEP_STATUS_PORT);
    fadt.reset_reg = register(layout::RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.iapc_boot_arch = NO_VGA_NO_CLOCK.into();
    fadt.finalize()
}

fn madt(vcpus: u8) -> impl Aml {
    let local_apic = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local_apic);
    for index in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(
            index,
            index,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

fn dsdt(virtio_devices: usize) -> Vec<u8> {
    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_BYTES,
        DSDT_REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    let mut code = Vec::new();
    Name::new(Path::new("_S5_"), &Package::new(vec![&SLEEP_TYPE_OFF])).to_aml_bytes(&mut code);
    write_power_button(&mut code);
    write_generation_id(&mut code);
    write_events(&mut code);
    write_serial_port(&mut code);
    for index in 0..virtio_devices {
        write_virtio_device(&mut code, index);
    }
    table.append_slice(&code);
    table.update_checksum();
    table.as_slice().to_vec()
}

/// The power button (ACPI 6.5 §4.8.3.1).
fn write_power_button(code: &mut Vec<u8>) {
    let button = Device::new(
        Path::new("PWRB"),
        vec![&Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C"))],
    )
    .to_bytes();
    Scope::new(Path::new("\\_SB_"), vec![&Raw(button)]).to_aml_bytes(code);
}

/// The generation ID, known by its compatible name (Microsoft, "Virtual Machine Generation ID",
/// 2012; Linux 6.12, drivers/virt/vmgenid.c, `vmgenid_ids`, which has it in capitals, as ACPICA
/// gives it). `ADDR` is where the number is, in two halves.
fn write_generation_id(code: &mut Vec<u8>) {
    let low = u32::try_from(layout::GENERATION_ID).expect("it is below 1 MiB");
    let address = Package::new(vec![&low, &0_u8]);
    let generation = Device::new(
        Path::new("VGEN"),
        vec![
            &Name::new(Path::new("_HID"), &"SMLV0001"),
            &Name::new(Path::new("_CID"), &"VM_Gen_Counter"),
            &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
            &Name::new(Path::new("ADDR"), &address),
        ],
    )
    .to_bytes();
    Scope::new(Path::new("\\_SB_"), vec![&Raw(generation)]).to_aml_bytes(code);
}

/// The device whose interrupts say that something has happened to the others (ACPI 6.5 §5.6.9).
fn write_events(code: &mut Vec<u8>) {
    let (button, generation) = (
        interrupt(layout::POWER_BUTTON_INTERRUPT),
        interrupt(layout::GENERATION_INTERRUPT),
    );
    let resources = ResourceTemplate::new(vec![&button, &generation]);
    let pressed = on_interrupt(
        layout::POWER_BUTTON_INTERRUPT,
        &Notify::new(&Path::new("\\_SB_.PWRB"), &BUTTON_PRESSED),
    );
    let changed = on_interrupt(
        layout::GENERATION_INTERRUPT,
        &Notify::new(&Path::new("\\_SB_.VGEN"), &GENERATION_CHANGED),
    );
    let event = Method::new(Path::new("_EVT"), 1, true, vec![&pressed, &changed]).to_bytes();
    let events = Device::new(
        Path::new("GED_"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_CRS"), &resources),
            &Raw(event),
        ],
    )
    .to_bytes();
    Scope::new(Path::new("\\_SB_"), vec![&Raw(events)]).to_aml_bytes(code);
}

/// What the method of events does when it is called for this interrupt.
fn on_interrupt(number: u32, act: &dyn Aml) -> Raw {
    let is_it = Equal::new(&Arg(0), &number);
    Raw(If::new(&is_it, vec![act]).to_bytes())
}

fn write_serial_port(code: &mut Vec<u8>) {
    let registers = IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8);
    let interrupt = interrupt(layout::SERIAL_INTERRUPT);
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let serial = Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &0_u8),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_bytes();
    Scope::new(Path::new("\\_SB_"), vec![&Raw(serial)]).to_aml_bytes(code);
}

/// A device as kernels find virtio devices on memory registers (Linux 6.12,
/// drivers/virtio/virtio_mmio.c, `virtio_mmio_acpi_match`).
fn write_virtio_device(code: &mut Vec<u8>, index: usize) {
    let address = virtio_registers(index);
    let registers = Memory32Fixed::new(
        true,
        u32::try_from(address).expect("the registers are below 4 GiB"),
        u32::try_from(layout::VIRTIO_REGISTERS_BYTES).expect("a page"),
    );
    let interrupt = interrupt(virtio_interrupt(index));
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let unique = u8::try_from(index).expect("MAX_VIRTIO_DEVICES is small");
    let device = Device::new(
        Path::new(&format!("VR{index:02}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &unique),
            // Devices may reach all of memory, and their caches are coherent.
            &Name::new(Path::new("_CCA"), &1_u8),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_bytes();
    Scope::new(Path::new("\\_SB_"), vec![&Raw(device)]).to_aml_bytes(code);
}

/// An interrupt of a device that nobody shares; it is a short pulse.
fn interrupt(number: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, number)
}

/// Returns where the registers of a virtio device are.
pub(crate) const fn virtio_registers(index: usize) -> u64 {
    layout::VIRTIO_REGISTERS + index as u64 * layout::VIRTIO_REGISTERS_BYTES
}

/// Returns the interrupt of a virtio device.
pub(crate) fn virtio_interrupt(index: usize) -> u32 {
    layout::FIRST_VIRTIO_INTERRUPT + u32::try_from(index).expect("MAX_VIRTIO_DEVICES is small")
}

/// AML that is encoded already: what contains it can then be built piece by piece.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

trait ToBytes: Aml {
    fn to_bytes(&self) -> Vec<u8>
    where
        Self: Sized,
    {
        bytes(self)
    }
}

impl<T: Aml> ToBytes for T {}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes as _;

    use super::*;

    /// Reads a table and checks that its bytes add up to zero (ACPI 6.5 §5.2.6).
    fn table(memory: &Memory, address: u64, signature: &[u8; 4]) -> Vec<u8> {
        let mut header = [0; HEADER_BYTES as usize];
        memory
            .read_slice(&mut header, GuestAddress(address))
            .unwrap();
        assert_eq!(&header[..4], signature);
        let length = u32::from_le_bytes(header[4..8].try_into().unwrap());
        let mut table = vec![0; length as usize];
        memory
            .read_slice(&mut table, GuestAddress(address))
            .unwrap();
        assert_eq!(
            table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
            0
        );
        table
    }

    fn address(table: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(table[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn tables_lead_to_each_other_and_fit() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let first = write(&memory, 32, layout::MAX_VIRTIO_DEVICES).unwrap();
        assert_eq!(first, layout::ACPI_TABLES);
        let mut rsdp = [0; 36];
        memory.read_slice(&mut rsdp, GuestAddress(first)).unwrap();
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        // XsdtAddress of the RSDP (ACPI 6.5 §5.2.5.3).
        let xsdt = table(&memory, address(&rsdp, 24), b"XSDT");
        let fadt = table(&memory, address(&xsdt, 36), b"FACP");
        let madt = table(&memory, address(&xsdt, 44), b"APIC");
        // The boot architecture flags of the FADT, and X_DSDT (ACPI 6.5 §5.2.9).
        assert_eq!(fadt[109], 0b10_0100);
        let dsdt = table(&memory, address(&fadt, 140), b"DSDT");
        // 44 bytes before them; 8 for each processor, 12 for the I/O controller (§5.2.12).
        assert_eq!(madt.len(), 44 + 32 * 8 + 12);
        let count = dsdt
            .windows(8)
            .filter(|window| window == b"LNRO0005")
            .count();
        assert_eq!(count, layout::MAX_VIRTIO_DEVICES);
        assert!(address(&rsdp, 24) + (xsdt.len() as u64) < layout::GENERATION_ID);
    }

    #[test]
    fn events_name_what_has_happened_and_the_generation_id_where_it_is() {
        let dsdt = dsdt(1);
        let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
        // Name, package of two: a double word, and zero (ACPI 6.5 §20.2.2 to §20.2.5).
        let address = b"\x08ADDR\x12\x08\x02\x0c\x00\xf0\x0f\x00\x00";
        assert!(has(address), "{dsdt:x?}");
        assert!(has(b"\x08_CID\x0dVM_Gen_Counter\0"), "{dsdt:x?}");
        // If Arg0 is the interrupt, notify: operators 0xa0, 0x93, 0x68 and 0x86.
        for (interrupt, device) in [
            (layout::POWER_BUTTON_INTERRUPT, b"PWRB"),
            (layout::GENERATION_INTERRUPT, b"VGEN"),
        ] {
            let interrupt = u8::try_from(interrupt).unwrap();
            let notify = [b"\x86\\\x2e_SB_".as_slice(), device, b"\x0a\x80"].concat();
            let event = [[0x93, 0x68, 0x0a, interrupt].as_slice(), &notify].concat();
            assert!(has(&event), "{interrupt}: {dsdt:x?}");
        }
    }
}
