# What an attacker tries from inside a guest, of which he is root. Every Debian has this interpreter. Each command ends by
# itself within seconds and prints what was answered.
use strict;
use warnings;
use IO::Select;
use Socket qw(:all);
$| = 1;

# The same in every sandbox.
my $own_mac = "02fc00000005";
my $host_mac = "02fc00000006";

my %commands = (
    probe => \&probe, frames => \&frames, syns => \&syns, listen => \&listen_on, ask => \&ask,
    request => \&request, hold => \&hold,
);
my $command = shift @ARGV;
$commands{$command}->(@ARGV);

sub checksum {
    my $sum = unpack("%32n*", $_[0] . "\0");
    $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
    return ~$sum & 0xffff;
}

# By TCP and UDP to a port, and by ICMP. A line for every answer.
sub probe {
    my ($port, $seconds, @addresses) = @_;
    my (%tcp, %udp, @keep);
    my ($write, $read) = (IO::Select->new, IO::Select->new);
    socket(my $icmp, PF_INET, SOCK_RAW, 1) or die "raw socket: $!";
    $read->add($icmp);
    for my $index (0 .. $#addresses) {
        my $place = pack_sockaddr_in($port, inet_aton($addresses[$index]));
        socket(my $stream, PF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) or die "socket: $!";
        if (connect($stream, $place) || $!{EINPROGRESS}) {
            $tcp{fileno $stream} = $index;
            $write->add($stream);
        }
        socket(my $datagrams, PF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0) or die "socket: $!";
        if (connect($datagrams, $place) && defined send($datagrams, "probe", 0)) {
            $udp{fileno $datagrams} = $index;
            $read->add($datagrams);
        }
        push @keep, $stream, $datagrams;
        my $echo = pack("C2n3a*", 8, 0, 0, $$ & 0xffff, $index, "probe");
        substr($echo, 2, 2) = pack("n", checksum($echo));
        send($icmp, $echo, 0, pack_sockaddr_in(0, inet_aton($addresses[$index])));
    }
    my $end = time + $seconds;
    while (time < $end) {
        my ($readable, $writable) = IO::Select->select($read, $write, undef, 0.2);
        for my $stream (@{$writable || []}) {
            my $error = unpack("i", getsockopt($stream, SOL_SOCKET, SO_ERROR));
            print "tcp $addresses[$tcp{fileno $stream}]\n" unless $error;
            $write->remove($stream);
        }
        for my $socket (@{$readable || []}) {
            my $from = recv($socket, my $packet, 1500, 0);
            if ($socket != $icmp) {
                print "udp $addresses[$udp{fileno $socket}]\n" if defined $from;
                $read->remove($socket);
                next;
            }
            my ($type, $code, $sum, $id, $index) = unpack("C2n3", substr($packet, 4 * (unpack("C", $packet) & 15)));
            print "icmp $addresses[$index]\n" if $type == 0 && $id == ($$ & 0xffff) && $index < @addresses;
        }
    }
}

sub udp_packet {
    my ($from, $to) = @_;
    my $header = pack("C2n3C2na4a4", 0x45, 0, 33, 1, 0, 64, 17, 0, inet_aton($from), inet_aton($to));
    substr($header, 10, 2) = pack("n", checksum($header));
    return $header . pack("n4a5", 4000, 80, 13, 0, "probe");
}

sub ethernet { return pack("H12H12n", $host_mac, $_[0], $_[1]) . $_[2] }

# As raw frames: pairs of a kind and the address that it is meant for.
sub frames {
    my %wanted = @_;
    my %make = (
        own => sub { ethernet($own_mac, 0x0800, udp_packet("169.254.0.21", $_[0])) },
        address => sub { ethernet($own_mac, 0x0800, udp_packet("198.51.100.99", $_[0])) },
        neighbour => sub { ethernet($own_mac, 0x0800, udp_packet("10.12.0.1", $_[0])) },
        mac => sub { ethernet("02fc00000077", 0x0800, udp_packet("169.254.0.21", $_[0])) },
        vlan => sub { ethernet($own_mac, 0x8100, pack("n2", 7, 0x0800) . udp_packet("169.254.0.21", $_[0])) },
        arp => sub { ethernet($own_mac, 0x0806, pack("n2C2nH12a4H12a4", 1, 0x0800, 6, 4, 2, $own_mac,
            inet_aton("169.254.0.22"), $host_mac, inet_aton("169.254.0.22"))) },
        ipv6 => sub {
            my $udp = pack("n4a5", 4000, 80, 13, 0, "probe");
            ethernet($own_mac, 0x86dd, pack("NnC2", 6 << 28, 13, 17, 64)
                . inet_pton(AF_INET6, "fe80::5") . inet_pton(AF_INET6, $_[0]) . $udp)
        },
    );
    open(my $file, "<", "/sys/class/net/eth0/ifindex") or die "eth0: $!";
    chomp(my $index = <$file>);
    socket(my $socket, 17, SOCK_RAW, 0) or die "packet socket: $!";
    my $place = pack("SniSCCa8", 17, 0, $index, 0, 0, 6, pack("H12", $host_mac));
    for my $kind (sort keys %wanted) {
        my $frame = $make{$kind}->($wanted{$kind});
        for (1 .. 3) { send($socket, $frame, 0, $place) // die "$kind: $!" }
    }
}

# So many connections, as quickly as they can be begun, each from a port of its own.
sub syns {
    my ($address, $count) = @_;
    my $place = pack_sockaddr_in(80, inet_aton($address));
    my @open;
    for (1 .. $count) {
        socket(my $stream, PF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) or last;
        connect($stream, $place);
        push @open, $stream;
        shift @open if @open > 500;
    }
    print "begun\n";
}

# Answers by TCP, as a web server would, and by UDP.
sub listen_on {
    my ($port) = @_;
    socket(my $stream, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
    setsockopt($stream, SOL_SOCKET, SO_REUSEADDR, 1);
    bind($stream, pack_sockaddr_in($port, INADDR_ANY)) && listen($stream, 64) or die "tcp: $!";
    socket(my $datagrams, PF_INET, SOCK_DGRAM, 0) or die "socket: $!";
    bind($datagrams, pack_sockaddr_in($port, INADDR_ANY)) or die "udp: $!";
    my $both = IO::Select->new($stream, $datagrams);
    while (1) {
        for my $ready ($both->can_read) {
            if ($ready == $datagrams) {
                my $from = recv($datagrams, my $packet, 1500, 0);
                send($datagrams, $packet, 0, $from) if defined $from;
            } elsif (accept(my $connection, $stream)) {
                sysread($connection, my $asked, 4096) if IO::Select->new($connection)->can_read(1);
                syswrite($connection, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nplanted");
                close $connection;
            }
        }
    }
}

# A question for a name: prints the code of the answer.
sub ask {
    my ($server, $name) = @_;
    socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die "socket: $!";
    my $question = pack("n6", 7, 0x100, 1, 0, 0, 0) . join("", map { pack("C/a", $_) } split /\./, $name) . pack("xnn", 1, 1);
    send($socket, $question, 0, pack_sockaddr_in(53, inet_aton($server)));
    return unless IO::Select->new($socket)->can_read(3);
    recv($socket, my $answer, 1500, 0) // return;
    print "code ", unpack("x3C", $answer) & 15, "\n";
}

# A request over plain HTTP: prints the first line of what came back.
sub request {
    my ($address, $port, $host, $what) = @_;
    socket(my $socket, PF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) or die "socket: $!";
    connect($socket, pack_sockaddr_in($port, inet_aton($address)));
    return unless IO::Select->new($socket)->can_write(3);
    $SIG{PIPE} = "IGNORE";
    syswrite($socket, "$what HTTP/1.1\r\nHost: $host\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}") // return;
    return unless IO::Select->new($socket)->can_read(3);
    my $length = sysread($socket, my $answer, 4096);
    print "answer ", $answer =~ /^([^\r\n]*)/, "\n" if $length;
}

# Holds a connection, and writes to a file what becomes of it.
sub hold {
    my ($address, $file) = @_;
    my $tell = sub { open(my $out, ">", "$file.new") or die "$file: $!"; print $out "@_\n"; close $out; rename("$file.new", $file) };
    $SIG{PIPE} = "IGNORE";
    socket(my $socket, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
    connect($socket, pack_sockaddr_in(80, inet_aton($address))) or return $tell->("refused");
    $tell->("open");
    for (1 .. 300) {
        syswrite($socket, "more") // return $tell->("cut");
        select(undef, undef, undef, 0.1);
    }
    $tell->("still open");
}
