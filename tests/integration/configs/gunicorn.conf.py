"""gunicorn with threads, because only they keep connections open."""

bind = "127.0.0.1:{{port}}"
worker_class = "gthread"
workers = 1
threads = 4
keepalive = 2
loglevel = "warning"
worker_tmp_dir = "{{folder}}"
control_socket_disable = True
forwarded_allow_ips = ""
graceful_timeout = 1
