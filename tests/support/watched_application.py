"""A WSGI application that tells what it is asked, and can be made to answer otherwise."""

from __future__ import annotations


class WatchedApplication:
    """An application that writes down what it is asked, and may do something else.

    Attributes
    ----------
    log : list of (str, dict)
        Method and path; headers.
    instead : callable or None
        Called with the environment; returns None, or status, headers and body.
    after : callable or None
        Called when the application has answered; what it raises comes instead of the answer.
    """

    def __init__(self, application):
        self.application = application
        self.log = []
        self.instead = self.after = None

    def __call__(self, environ, start_response):
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.log.append((line, environ))
        if self.instead is not None:
            found = self.instead(environ)
            if found is not None:
                status, headers, body = found
                start_response(f"{status} -", [("Content-Length", str(len(body))), *headers])
                return [body]
        answer = self.application(environ, start_response)
        if self.after is not None:
            answer = [b"".join(answer)]
            self.after()
        return answer

    @property
    def lines(self):
        return [line for line, _ in self.log]
