# Starts the system in slot A or B, and goes back to the other where a new one does not start.
#
# One script for the Raspberry Pi 3, 4, CM4 and for QEMU's virt, run by Debian's U-Boot from partition 1 as boot.scr:
#   mkimage -A arm64 -T script -d boot.cmd boot.scr
# U-Boot says where it was found: devtype, devnum. Partition 2 holds the boot environment in two copies of 0x20 blocks,
# at its start and 4 MiB on; see bootenv. The valid copy with the higher SERIAL is in force, the other one is written.
# A slot costs a try before it is loaded, so that also what hangs is left in the end. edge-good gives the tries back.
# What makes no sense counts as its default, as it does in bootenv: the box must start.

echo "dicom-edge: starting from ${devtype} ${devnum}"

# kernels outgrow the places that U-Boot has for them on the Raspberry Pi
setexpr kernel_at ${kernel_addr_r} + 0
setexpr copy0_at ${kernel_at} + 7000000
setexpr copy1_at ${kernel_at} + 7010000
setexpr initrd_at ${kernel_at} + 8000000

env set names SERIAL BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT MACHINE_ID
env set uuid_A 5ed6e0a0-0000-4000-8000-00000000000a
env set uuid_B 5ed6e0a0-0000-4000-8000-00000000000b
env set part_A 3
env set part_B 4
if test "${vendor}" = "raspberrypi"; then
  env set consoles console=tty1 console=ttyS1,115200
else
  env set consoles console=ttyAMA0
fi

# in: at, block; out: ok, and the variables of the copy
env set read_copy 'env set ok; for name in ${names}; do env set ${name}; done;
if ${devtype} read ${at} ${block} 20; then
  if env import -c ${at} 4000 ${names}; then
    setexpr nonsense gsub "[0123456789abcdef]" "" "${SERIAL}";
    if test -n "${SERIAL}" -a -z "${nonsense}"; then
      setexpr canonical ${SERIAL} + 0;
      if test "${canonical}" = "${SERIAL}"; then
        if itest ${SERIAL} -gt 0; then env set ok 1; fi;
      fi;
    fi;
  fi;
fi'

# in: SERIAL and the others, at, block, other_at, other_block; the copy that is written is in force afterwards
env set write_copy 'setexpr SERIAL ${SERIAL} + 1;
if env export -c -s 4000 ${other_at} ${names} && ${devtype} write ${other_at} ${other_block} 20; then
  env set swap_at ${at}; env set swap_block ${block};
  env set at ${other_at}; env set block ${other_block};
  env set other_at ${swap_at}; env set other_block ${swap_block};
else
  echo "dicom-edge: the try cannot be noted: the card does not take it. Starting all the same";
fi'

# in: slot; returns only where it does not start
# not rootwait alone: without the drivers of its initrd a kernel would wait for its disk for ever instead of giving up
env set start_slot 'env set uuid ${uuid_A}; env set part ${part_A};
if test "${slot}" = "B"; then env set uuid ${uuid_B}; env set part ${part_B}; fi;
env set bootargs "root=PARTUUID=${uuid} ro rootwait=10 rauc.slot=${slot} panic=10 fsck.repair=yes ${consoles}";
if test -n "${MACHINE_ID}"; then env set bootargs "${bootargs} systemd.machine_id=${MACHINE_ID}"; fi;
if load ${devtype} ${devnum}:${part} ${kernel_at} /boot/vmlinuz; then
  if load ${devtype} ${devnum}:${part} ${initrd_at} /boot/initrd.img; then
    echo "dicom-edge: slot ${slot} is loaded, its kernel takes over";
    booti ${kernel_at} ${initrd_at}:${filesize} ${fdt_addr};
    echo "dicom-edge: slot ${slot} has a kernel that cannot be started";
  else
    echo "dicom-edge: slot ${slot} has no initrd that can be read";
  fi;
else
  echo "dicom-edge: slot ${slot} has no kernel that can be read";
fi'

part start ${devtype} ${devnum} 2 block0
setexpr block1 ${block0} + 2000

# copy 0, then copy 1, then copy 0 again if it is the newer: each read forgets what the one before it brought
env set serial0 0; env set at ${copy0_at}; env set block ${block0}; run read_copy
if test -n "${ok}"; then env set serial0 ${SERIAL}; fi
env set serial1 0; env set at ${copy1_at}; env set block ${block1}; run read_copy
if test -n "${ok}"; then env set serial1 ${SERIAL}; fi
env set other_at ${copy0_at}; env set other_block ${block0}
if itest ${serial0} -gt ${serial1}; then
  env set at ${copy0_at}; env set block ${block0}; run read_copy
  env set other_at ${copy1_at}; env set other_block ${block1}
fi
if test -z "${ok}"; then
  echo "dicom-edge: both copies of the boot environment are damaged, going on with defaults"
  for name in ${names}; do env set ${name}; done
  env set SERIAL 0
fi

if test "${BOOT_ORDER}" != "B A"; then env set BOOT_ORDER A B; fi
if test "${BOOT_A_LEFT}" != 0 -a "${BOOT_A_LEFT}" != 1 -a "${BOOT_A_LEFT}" != 2; then env set BOOT_A_LEFT 3; fi
if test "${BOOT_B_LEFT}" != 0 -a "${BOOT_B_LEFT}" != 1 -a "${BOOT_B_LEFT}" != 2; then env set BOOT_B_LEFT 3; fi
setexpr nonsense gsub "[0123456789abcdef]" "" "${MACHINE_ID}"
if test -n "${nonsense}"; then env set MACHINE_ID; fi
echo "dicom-edge: order ${BOOT_ORDER}, tries left: A ${BOOT_A_LEFT}, B ${BOOT_B_LEFT}"

for slot in ${BOOT_ORDER}; do
  if test "${slot}" = "A"; then env set left ${BOOT_A_LEFT}; else env set left ${BOOT_B_LEFT}; fi
  if test "${left}" = 0; then
    echo "dicom-edge: slot ${slot} has no tries left"
  else
    setexpr left ${left} - 1
    env set BOOT_${slot}_LEFT ${left}
    run write_copy
    echo "dicom-edge: starting slot ${slot}, tries left after this one: ${left}"
    run start_slot
  fi
done

echo "dicom-edge: no slot with tries left starts, last resort: any that loads"
for slot in ${BOOT_ORDER}; do
  run start_slot
done

echo "dicom-edge: neither slot starts. Put in a card with a working image. Trying again in a minute"
sleep 60
reset
