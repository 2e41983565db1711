def spoken(family, kind, address):
    with socket.socket(family, kind) as made:
        made.settimeout(2)
        made.connect(address)
        return made.send(b"hello")


def made(family, kind, protocol=0):
    return socket.socket(family, kind, protocol).close()


def sent(address):
    """A datagram from one end of a pair, which is allowed, to somebody else."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        return one.sendto(b"hello", address)


def try_loopback():
    return spoken(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PLANTED["port"]))


def try_loopback_of_version_6():
    return made(socket.AF_INET6, socket.SOCK_STREAM)


def try_name_service():
    return spoken(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 53))


def try_listening():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as door:
        door.bind(("127.0.0.1", 0))
        door.listen()


def try_outside():
    socket.create_connection(("192.0.2.1", 80), timeout=0.05)


def try_unix_path():
    return spoken(socket.AF_UNIX, socket.SOCK_STREAM, PLANTED["unix path"])


def try_unix_abstract():
    return spoken(socket.AF_UNIX, socket.SOCK_STREAM, PLANTED["unix abstract"])


def try_datagram_to_a_path():
    return sent(PLANTED["datagram path"])


def try_datagram_to_an_abstract_name():
    return sent(PLANTED["datagram abstract"])


def try_routing():
    return made(socket.AF_NETLINK, socket.SOCK_RAW)


def try_packets():
    return made(socket.AF_PACKET, socket.SOCK_RAW)


def try_virtual_machine():
    return made(40, socket.SOCK_STREAM)  # AF_VSOCK: the machine that this one runs in


def try_kernel_crypto():
    return made(socket.AF_ALG, socket.SOCK_SEQPACKET)


def machine_code(code):
    """Runs instructions; what the C library would not do."""
    place = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    place.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def try_socket_in_32_bits():
    """socket(AF_UNIX, SOCK_STREAM, 0) by the calls of the 32-bit kernel, whose numbers are others."""
    code = b"\x53\xbb\x01\x00\x00\x00\xb9\x01\x00\x00\x00\x31\xd2\xb8\x67\x01\x00\x00\xcd\x80\x5b\xc3"
    return death_of(lambda: os._exit(min(100, max(1, machine_code(code)))))


def try_socket_by_numbers_of_x32():
    return death_of(lambda: os._exit(1 if libc.syscall(ctypes.c_long(0x4000_0000 + 41), 1, 1, 0) >= 0 else 2))
