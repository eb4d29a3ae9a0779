"""What twisted.plugin finds."""

from tailproxy_greeting.page import GreetingPlugin

greeting = GreetingPlugin()
