package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// streams are the standard streams as the caller gave them.
type streams struct {
	answers *os.File // standard output
	errors  *os.File // standard error
}

// divertOutput points the process's standard output and error at a log file,
// by descriptor, so that it catches what every linked-in part prints, the
// runtime's panics included.
func divertOutput(logFile string) (streams, error) {
	var s streams
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return s, err
	}
	if s.answers, err = keep(os.Stdout, "stdout"); err != nil {
		return s, err
	}
	if s.errors, err = keep(os.Stderr, "stderr"); err != nil {
		return s, err
	}
	for _, descriptor := range []int{unix.Stdout, unix.Stderr} {
		if err := unix.Dup3(int(log.Fd()), descriptor, 0); err != nil {
			return s, fmt.Errorf("diverting output to %s: %w", logFile, err)
		}
	}
	return s, nil
}

func keep(file *os.File, name string) (*os.File, error) {
	descriptor, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("keeping %s: %w", name, err)
	}
	return os.NewFile(uintptr(descriptor), name), nil
}

// fatal reports the error that ends the program, to the caller and to the log.
func (s streams) fatal(err error) {
	fmt.Fprintf(os.Stderr, "control-plane: %v\n", err)
	fmt.Fprintf(s.errors, "control-plane: %v\n", err)
}
