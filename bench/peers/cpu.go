package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// ticksPerSecond is the unit of times in /proc. It is the same on every Linux that Go
// runs on, whatever clock the kernel has.
const ticksPerSecond = 100

// cpuSeconds returns the CPU time, of user and system, that processes have taken so
// far, in steps of a hundredth of a second; 0 where there is no /proc.
func cpuSeconds(pids ...int) float64 {
	ticks := uint64(0)
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0
		}
		ticks += cpuTicks(stat)
	}
	return float64(ticks) / ticksPerSecond
}

// cpuTicks reads fields 14 and 15 of what is described in proc_pid_stat(5). The second
// is the name of the program, in parentheses, and may hold anything.
func cpuTicks(stat []byte) uint64 {
	const afterName, user, system = 3, 14, 15
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= system-afterName {
		return 0
	}
	ticks := uint64(0)
	for _, field := range []int{user, system} {
		n, _ := strconv.ParseUint(string(fields[field-afterName]), 10, 64) // 0 for what is no number
		ticks += n
	}
	return ticks
}
